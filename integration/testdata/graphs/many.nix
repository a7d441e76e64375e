# COUNT small derivations: all independent, or each needing the one before it.
#
# --argstr salt TEXT makes its store paths different from those of other tests.
{ count ? 100, chained ? false, salt ? "" }:
let
  item = n: import ./derive.nix "item-${toString n}" {
    inherit salt;
    n = toString n;
    previous = if chained && n > 1 then item (n - 1) else "";
  } ''echo "$n $previous" > $out'';
in
builtins.genList (i: item (i + 1)) count
