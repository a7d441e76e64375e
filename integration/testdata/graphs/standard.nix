# A small graph with every kind of store path: several levels, shared
# dependencies, sources of both kinds, a fixed output, multiple outputs of which
# dependents want one, and contents that are hard on whoever packs them.
#
# --argstr salt TEXT makes its store paths different from those of other tests.
{ salt ? "" }:
let
  derive = name: attributes: import ./derive.nix name ({ inherit salt; } // attributes);

  text = builtins.toFile "text" "a text${salt}\n"; # its CA is text:…
  source = ./derive.nix; # its CA is fixed:r:sha256:…

  fetched = derive "fetched" {
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = builtins.hashString "sha256" "fetched${salt}\n";
  } ''echo "fetched$salt" > $out'';

  fetchedTree = derive "fetched-tree" {
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
    outputHash = "sha256-vWc0G8eMlmTqpm4FHp1yJd1LQSllRejS7b42f6EHCD8=";
  } ''mkdir $out; echo tree > $out/leaf'';

  base = derive "base" { } ''
    mkdir $out
    cp ${text} $out/text
    ln -s ${fetched} $out/fetched
    ln -s ${fetchedTree} $out/fetched-tree
    echo ${source} ${text} > $out/references
  '';

  lib = derive "lib" { outputs = [ "out" "dev" "doc" ]; } ''
    mkdir -p $out/lib $dev/include $doc
    echo ${base} > $out/lib/lib.a
    echo $out > $dev/include/lib.h
    echo "nobody wants this" > $doc/manual
  '';

  left = derive "left" { } ''echo ${lib} > $out'';

  right = derive "right" { } ''
    mkdir $out
    echo ${lib} ${base} $out > $out/self
  '';

  tool = derive "tool" { } ''
    mkdir -p $out/bin
    printf '#!/bin/sh\necho tool\n' > $out/bin/tool
    chmod 755 $out/bin/tool
    ln -s tool $out/bin/alias
    ln -s /nowhere/at/all $out/dangling
  '';

  names = derive "names" { } ''
    mkdir $out $out/日本語 $out/a
    echo 1 > $out/grüße
    echo 2 > $out/日本語/ファイル
    echo 3 > $out/..data
    echo 4 > "$out/with space"
    echo 5 > $out/a/b
    echo 6 > $out/a-b
    echo 7 > $out/a.b
    echo 8 > "$out/$(printf 'latin1-\351')"
    : > $out/empty
    mkdir $out/empty-dir
  '';

  emptyDir = derive "empty-dir" { } ''mkdir $out'';

  emptyFile = derive "empty-file" { } '': > $out'';

  script = derive "script" { } ''
    printf '#!/bin/sh\n' > $out
    chmod 755 $out
  '';

  link = derive "link" { } ''ln -s ${tool}/bin/tool $out'';
in
derive "top" { } ''
  mkdir $out
  ln -s ${left} ${right} ${tool} ${names} ${emptyDir} ${emptyFile} ${script} ${link} $out/
''
