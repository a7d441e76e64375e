//go:build !linux

package nixclient

// apart tells nothing where there are no mount namespaces.
func apart(string) (apart bool, pid int) { return false, 0 }
