package keep

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tulle-mesh/tulle/istiod-lite/ca"
)

// authorityFolder is within the state folder: the self-signed key with its certificate.
const authorityFolder = "authority"

// OpenFolder returns the self-signed authority in a folder, and makes it if there is none. Key and certificate are made in
// a folder that then gets its name in one step, so that of several that try at once one wins, and nobody ever sees half of
// it.
func OpenFolder(state, trustDomain string) (*ca.Authority, error) {
	dir := filepath.Join(state, authorityFolder)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := create(state, dir, trustDomain); err != nil {
			return nil, fmt.Errorf("make authority in %s: %w", state, err)
		}
	}
	l := layout{certificate: certificateName, key: keyName, root: certificateName}
	parts, err := readParts(dir, l.files())
	if err != nil {
		return nil, fmt.Errorf("authority in %s: %w", dir, err)
	}
	m, err := l.material(parts)
	if err != nil {
		return nil, fmt.Errorf("authority in %s: %w", dir, err)
	}
	a, err := ca.New(m)
	if err != nil {
		return nil, fmt.Errorf("authority in %s: %w", dir, err)
	}
	return a, nil
}

func create(state, dir, trustDomain string) error {
	if err := os.MkdirAll(state, 0o755); err != nil {
		return err
	}
	making, err := os.MkdirTemp(state, ".authority-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(making) // nothing is left of it under this name if it became the authority
	root, err := newRoot(trustDomain, RootTTL, time.Now())
	if err != nil {
		return err
	}
	key, err := encodeKey(root.key)
	if err != nil {
		return err
	}
	if err := write(filepath.Join(making, keyName), key, 0o600); err != nil {
		return err
	}
	if err := write(filepath.Join(making, certificateName), ca.EncodeCertificate(root.certificate), 0o644); err != nil {
		return err
	}
	if err := os.Rename(making, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil // made here, or by another at the same time
}

// Publish writes the roots that clients trust to root-cert.pem in a folder.
func Publish(dir string, live *ca.Live) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("publish roots: %w", err)
	}
	if err := replace(filepath.Join(dir, rootName), live.RootsPEM(), 0o644); err != nil {
		return fmt.Errorf("publish roots: %w", err)
	}
	return nil
}

// KeepPublished publishes whenever the roots change, until the context ends or it fails.
func KeepPublished(ctx context.Context, dir string, live *ca.Live) error {
	for {
		changed := live.Changed()
		if err := Publish(dir, live); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// write makes a new file that is on disk when it returns.
func write(path string, data []byte, mode fs.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Sync(), file.Close())
}

// replace changes a file in one step.
func replace(path string, data []byte, mode fs.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".replace-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	making := filepath.Join(dir, filepath.Base(path))
	if err := write(making, data, mode); err != nil {
		return err
	}
	return os.Rename(making, path)
}
