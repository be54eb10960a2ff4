package keep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
	"github.com/tulle-mesh/tulle/mesh/file"
)

// OptionalFolder is where an authority may be plugged in without being asked for, as a Secret that may or may not be there.
const OptionalFolder = "/etc/cacerts"

// Plugged is an authority in a folder, which somebody else makes and replaces.
type Plugged struct {
	dir  string
	log  *slog.Logger
	live *ca.Live
}

// OpenPlugged reads the authority in a folder. It returns nil if there is none in OptionalFolder, or if the folder is "":
// elsewhere it was asked for, and to go on with another authority would split the mesh.
func OpenPlugged(dir string, log *slog.Logger) (*Plugged, error) {
	if dir == "" {
		return nil, nil
	}
	a, err := loadPlugged(dir)
	switch {
	case err == nil:
		return &Plugged{dir: dir, log: log, live: ca.NewLive(a)}, nil
	case !errors.Is(err, errNothing):
		return nil, fmt.Errorf("plugged authority in %s: %w", dir, err)
	case dir == OptionalFolder:
		return nil, nil
	}
	return nil, fmt.Errorf("no authority is plugged in at %s: put %s, %s, %s and %s there, or leave --cacerts out for an own authority",
		dir, certificateName, keyName, chainName, rootName)
}

// Live is the authority.
func (p *Plugged) Live() *ca.Live { return p.live }

// Run takes over what changes in the folder until the context ends. What doesn't fit is refused: the authority before stays
// in use, and the log says why.
func (p *Plugged) Run(ctx context.Context) error {
	var paths []string
	for _, name := range names() {
		paths = append(paths, filepath.Join(p.dir, name))
	}
	files := file.Look(paths...)
	p.reload() // it may have changed since it was opened
	return files.Follow(ctx, p.reload)
}

func (p *Plugged) reload() {
	a, err := loadPlugged(p.dir)
	if err == nil {
		err = a.Follows(p.live.Authority())
	}
	if err != nil {
		p.log.Error("plugged authority not used, the one before stays in use", "folder", p.dir, "err", err)
		return
	}
	if p.live.Set(a) {
		p.log.Info("plugged authority replaced", "folder", p.dir, "signer", describe(a.Chain[0]), "roots", len(a.Roots))
	}
}

var errNothing = errors.New("there is none")

// names are all files that may be in a plugged folder.
func names() []string {
	list := []string{revokedName}
	for _, l := range layouts() {
		list = append(list, l.files()...)
	}
	return list
}

// files are those of the layout that must be there.
func (l layout) files() []string {
	list := []string{l.certificate, l.key, l.root}
	if l.chain != "" {
		list = append(list, l.chain)
	}
	return list
}

// loadPlugged reads the first layout of which there is a file. Half of one is an error: to fall back to another authority
// would split the mesh.
func loadPlugged(dir string) (*ca.Authority, error) {
	parts, err := readParts(dir, names())
	if err != nil {
		return nil, err
	}
	for _, l := range layouts() {
		missing := slices.DeleteFunc(l.files(), func(name string) bool { _, there := parts[name]; return there })
		if len(missing) == len(l.files()) {
			continue
		}
		if len(missing) > 0 {
			return nil, fmt.Errorf("it lacks %v", missing)
		}
		m, err := l.material(parts)
		if err != nil {
			return nil, err
		}
		return ca.New(m)
	}
	return nil, errNothing
}

// readParts reads the files that are there.
func readParts(dir string, names []string) (map[string][]byte, error) {
	parts := map[string][]byte{}
	for _, name := range names {
		data, err := read(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		default:
			parts[name] = data
		}
	}
	return parts, nil
}

// read reads a file up to the limit.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err == nil && len(data) > maxBytes {
		err = fmt.Errorf("%s exceeds %d bytes", path, maxBytes)
	}
	return data, err
}
