//go:build !linux

package doctor

// daemonSees tells whether the daemon sees the same file at a place as we do.
func (s *Setup) daemonSees(path string) (sees, known bool) { return s.Nix.Sees(path) }
