// Oci writes larder as a container image with nothing but its two programs, for
// others to copy them from (COPY --from), into a directory in the OCI image layout:
//
//	oci --version V --source URL --time SECONDS DIR OS/ARCH=FOLDER…
//
// The image has a part for each platform, with the programs that are in its folder.
// The same arguments give the same bytes: nothing but --time says when it was.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func main() {
	version := flag.String("version", "", "what the image is tagged with")
	source := flag.String("source", "", "where it was made from")
	seconds := flag.Int64("time", 0, "of the image and all in it, since 1970")
	flag.Parse()
	img := image{version: *version, source: *source, created: time.Unix(*seconds, 0).UTC()}
	for _, arg := range flag.Args()[min(1, flag.NArg()):] {
		platform, folder, ok1 := strings.Cut(arg, "=")
		goos, arch, ok2 := strings.Cut(platform, "/")
		if !ok1 || !ok2 {
			usage()
		}
		img.parts = append(img.parts, part{v1.Platform{OS: goos, Architecture: arch}, folder})
	}
	if *version == "" || len(img.parts) == 0 {
		usage()
	}
	if err := img.write(flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "oci:", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: oci --version V [--source URL] [--time SECONDS] DIR OS/ARCH=FOLDER…")
	os.Exit(2)
}
