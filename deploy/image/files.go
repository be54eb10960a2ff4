package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
)

// File is a file of an image, which belongs to root. The folders that it is in come by themselves.
type File struct {
	// Path is where it is, from the root, such as /usr/local/bin/ztunnel.
	Path string
	// Mode says by its type whether it is a file, a folder or a symbolic link.
	Mode fs.FileMode
	// Content of a symbolic link is where it leads.
	Content []byte
}

const permissions = fs.ModePerm | fs.ModeSticky

// pack makes a tar archive of files: the same one for the same files, in whatever order.
func pack(files []File) ([]byte, error) {
	all, err := withFolders(files)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		file := all[name]
		header, err := file.header()
		if err != nil {
			return nil, err
		}
		if err := archive.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("file %s: %w", name, err)
		}
		if header.Typeflag == tar.TypeReg {
			if _, err := archive.Write(file.Content); err != nil {
				return nil, fmt.Errorf("file %s: %w", name, err)
			}
		}
	}
	return out.Bytes(), archive.Close()
}

// withFolders adds the folders that files are in and that nobody has named.
func withFolders(files []File) (map[string]File, error) {
	all := map[string]File{}
	for _, file := range files {
		if file.Path == "/" || !path.IsAbs(file.Path) || path.Clean(file.Path) != file.Path {
			return nil, fmt.Errorf("path %q: want a clean one from the root, such as /usr/local/bin/program", file.Path)
		}
		if _, twice := all[file.Path]; twice {
			return nil, fmt.Errorf("file %s is there twice", file.Path)
		}
		all[file.Path] = file
	}
	for _, file := range files {
		for folder := path.Dir(file.Path); folder != "/"; folder = path.Dir(folder) {
			if there, ok := all[folder]; ok && !there.Mode.IsDir() {
				return nil, fmt.Errorf("file %s is in %s, which is no folder", file.Path, folder)
			}
			if _, ok := all[folder]; !ok {
				all[folder] = File{Path: folder, Mode: fs.ModeDir | 0o755}
			}
		}
	}
	return all, nil
}

func (f File) header() (*tar.Header, error) {
	header := &tar.Header{Name: f.Path[1:], Mode: int64(f.Mode.Perm())}
	if f.Mode&fs.ModeSticky != 0 {
		header.Mode |= 0o1000
	}
	switch f.Mode &^ permissions {
	case 0:
		header.Typeflag, header.Size = tar.TypeReg, int64(len(f.Content))
	case fs.ModeDir:
		header.Typeflag, header.Name = tar.TypeDir, header.Name+"/"
	case fs.ModeSymlink:
		header.Typeflag, header.Linkname = tar.TypeSymlink, string(f.Content)
	default:
		return nil, fmt.Errorf("file %s has mode %s: want a file, a folder or a symbolic link", f.Path, f.Mode)
	}
	return header, nil
}
