package doctor

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"strconv"
)

// checkTrust looks whether the user may change the daemon's settings.
func checkTrust(_ context.Context, s *Setup) []Finding {
	switch {
	case !s.daemon():
		return nil
	case s.Nix.Trusted:
		return fine("nix-daemon trusts you")
	case s.Queue != nil:
		return fine("nix-daemon does not trust you, and need not: hook and substituters are the system's")
	}
	return one(s.onNixConf(Finding{
		Severity: Warning,
		What:     "nix-daemon does not trust you (trusted-users)",
		Why: "larder run can't set a hook, so that what is built is found in Nix's database, a moment later; nor can it name keys, " +
			"or a cache that the administrator has not allowed. Who is trusted can become root: the administrator decides",
	}, "extra-trusted-users = "+userName()))
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return strconv.Itoa(os.Geteuid())
}

// untrustedSetting says that the user's own settings do not reach the daemon.
func (s *Setup) untrustedSetting(name, value string) Finding {
	return s.onNixConf(Finding{
		Severity: Problem,
		What:     fmt.Sprintf("%s = %s stands in your own settings, where nix-daemon does not see it", name, value),
		Why:      "from users whom it does not trust it takes no such setting, and older versions do not even say so (NixOS/nix#9790)",
	}, name+" = "+value)
}
