# A small graph of the kinds of derivations that real projects have, without
# nixpkgs: /bin/sh builds everything.
#
#   source (fixed output) ─▶ library (out, dev) ─┬─▶ tool ─────┬─▶ product
#                                    └───────────┴─▶ service ──┘
let
  build =
    name: attrs: script:
    derivation (
      {
        inherit name;
        system = builtins.currentSystem;
        builder = "/bin/sh";
        PATH = "/usr/bin:/bin";
        # The last word must be the shell's own: see Nix's handling of a closed
        # standard output.
        args = [
          "-euc"
          "${script}; exit 0"
        ];
      }
      // attrs
    );

  # What a download is to Nix: its contents are known before.
  source = build "demo-source" {
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = builtins.hashString "sha256" "fn answer = 42\n";
  } "echo 'fn answer = 42' > $out";

  library = build "demo-library" {
    inherit source;
    outputs = [
      "out"
      "dev"
    ];
  } "mkdir -p $out/lib $dev/include; cp $source $out/lib/answer; echo $out > $dev/include/library";

  tool = build "demo-tool" {
    inherit library;
    inherit (library) dev;
  } "mkdir -p $out/bin; echo \"#!/bin/sh\ncat $library/lib/answer\" > $out/bin/tool; chmod +x $out/bin/tool";

  service = build "demo-service" {
    inherit library;
    inherit (library) dev;
  } "mkdir -p $out/etc; echo library=$library > $out/etc/service.conf";
in
build "demo-product" {
  inherit tool service;
} "mkdir -p $out/bin; ln -s $tool/bin/tool $out/bin/product; ln -s $service/etc $out/etc"
