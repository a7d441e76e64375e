# A chain of content-addressed derivations, one with two outputs, and one that is
# named by its inputs, of which nobody knows before they are built.
#
# --argstr input TEXT is for the first one to read, but makes no difference to what it
# builds; --argstr random true makes it build something else every time. --argstr part
# NAME is what is built of them.
{ input ? "one", random ? "", part ? "top" }:
let
  derive = import ./derive.nix;
  addressed = name: attributes: derive name ({
    __contentAddressed = true;
    outputHashMode = "recursive";
    outputHashAlgo = "sha256";
  } // attributes);
in
rec {
  first = addressed "first" { inherit input random; } ''
    test -n "$input"
    echo first > $out
    if [ -n "$random" ]; then cat /proc/sys/kernel/random/uuid >> $out; fi
  '';
  second = addressed "second" { outputs = [ "out" "dev" ]; } ''
    echo ${first} > $out
    mkdir $dev
    echo dev > $dev/file
  '';
  deferred = derive "deferred" { } "echo ${second} ${first} > $out";
  top = addressed "top" { } "echo ${second.dev} ${deferred} > $out";
}.${part}
