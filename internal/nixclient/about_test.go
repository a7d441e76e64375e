package nixclient

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSystemDoesNotHearTheUser(t *testing.T) {
	ask(t, "post-build-hook = /of/the/environment")
	user := filepath.Join(t.TempDir(), "nix.conf")
	for file, text := range map[string]string{
		user: "fallback = true\n",
		filepath.Join(os.Getenv("NIX_CONF_DIR"), "nix.conf"): "substituters = file:///system\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("NIX_USER_CONF_FILES", user)
	c, err := System(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c.String("post-build-hook") != "" || c.Bool("fallback") {
		t.Error("the system's settings are the user's")
	}
	if s := c.Strings("substituters"); len(s) != 1 || s[0] != "file:///system" {
		t.Errorf("substituters are %q", s)
	}
	if v, err := InPath(t.Context()); err != nil || !v.Known() || v.Before(2, 0) {
		t.Errorf("version is %+v (%v)", v, err)
	}
}
