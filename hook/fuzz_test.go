package hook

import (
	"slices"
	"strings"
	"testing"

	"github.com/nix-larder/larder/internal/nixstore"
)

// FuzzParseBuild asserts that whatever the environment says, nothing but store paths
// comes of it, every store path in it does, and what is wrong is told in a few lines.
func FuzzParseBuild(f *testing.F) {
	const (
		out = "/nix/store/5bvadf40dyi3dlvdpqcxxc6vxxpb383w-lib"
		dev = "/nix/store/di1gan6bifsijfs38a849ziazp1haja5-lib-dev"
	)
	f.Add(out+".drv", out)
	f.Add(out+".drv!dev", out+" "+dev)
	f.Add("", "")
	f.Add("\n", "\t\n")
	f.Add("/nix/store/../../etc/passwd", "/nix/store//x "+dev+"/bin")
	f.Add(out+".drv\n"+dev+".drv", out+"\n"+dev+"\x00")
	f.Add("!", strings.Repeat("x ", 1000))
	dirs := nixstore.Dirs{Store: "/nix/store"}
	f.Fuzz(func(t *testing.T, drv, outs string) {
		env := map[string]string{"DRV_PATH": drv, "OUT_PATHS": outs}
		b, err := parseBuild(dirs, func(name string) string { return env[name] })
		paths := b.outputs
		if b.drv != "" {
			paths = append(slices.Clone(paths), b.drv)
		}
		for _, path := range paths {
			if err := nixstore.CheckPath(dirs.Store, path); err != nil {
				t.Errorf("%q, %q give %q: %v", drv, outs, path, err)
			}
		}
		for _, path := range strings.Fields(outs) {
			if good := nixstore.CheckPath(dirs.Store, path) == nil; good != slices.Contains(b.outputs, path) {
				t.Errorf("%q is of the outputs %q: %v", path, b.outputs, !good)
			}
		}
		if len(paths) == 0 && err == nil {
			t.Errorf("%q, %q give nothing, and nobody is told", drv, outs)
		}
		if err != nil && strings.Count(err.Error(), "\n") > 3 {
			t.Errorf("too many lines: %v", err)
		}
	})
}
