# What a job builds: a leaf that changes from job to job, what depends on it, and
# more that does not. Most is needed to build only, and so in no closure.
#
# --argstr gate PIPE has the last one wait: see type gate.
{ leaf ? "1", gate ? "" }:
let
  derive = import ./derive.nix;

  download = derive "download" {
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = builtins.hashString "sha256" "download\n";
  } ''echo download > $out'';

  compiler = derive "compiler" {
    inherit download;
    source = builtins.toFile "compiler.c" "compiler\n";
  } ''mkdir $out; read line < $download; echo "compiled $line" > $out/compiler'';

  lib = derive "lib" { inherit compiler; outputs = [ "out" "dev" ]; } ''
    mkdir $out $dev
    echo lib > $out/lib
    echo $out > $dev/header
  '';

  docs = derive "docs" { inherit compiler; } ''echo docs > $out'';

  changing = derive "leaf" { inherit leaf; } ''echo "leaf $leaf" > $out'';

  part = derive "part" { inherit compiler changing; lib = lib.dev; } ''echo $changing $lib > $out'';
in
[
  docs
  (derive "app" { inherit compiler part gate; } ''
    if [ -n "$gate" ]; then read line < $gate; fi
    echo $part > $out
  '')
]
