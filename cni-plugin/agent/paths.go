package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
)

// maxStateFile bounds what is read back, in bytes.
const maxStateFile = 4 << 20

// paths remembers, over restarts, in which namespaces the container runtime started pods.
type paths struct {
	file    string
	writing sync.Mutex // held for as long as the file takes; mu never is

	mu    sync.Mutex
	byUID map[string]string
}

func newPaths(file string) *paths { return &paths{file: file, byUID: map[string]string{}} }

func (p *paths) load() error {
	info, err := os.Stat(p.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Size() > maxStateFile {
		return fmt.Errorf("state file %s has %d bytes, more than %d: remove it", p.file, info.Size(), maxStateFile)
	}
	data, err := os.ReadFile(p.file)
	if err != nil {
		return err
	}
	byUID := map[string]string{}
	if err := json.Unmarshal(data, &byUID); err != nil {
		return fmt.Errorf("state file %s: %w: remove it", p.file, err)
	}
	p.set(byUID)
	return nil
}

func (p *paths) get(uid string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byUID[uid]
}

// put remembers a pod's path. When it returns, an agent that follows this one knows it too, unless the machine itself
// goes down: then the namespaces are gone as well.
func (p *paths) put(uid, path string) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	if p.get(uid) == path {
		return nil
	}
	changed := p.copied()
	changed[uid] = path
	if err := p.write(changed); err != nil {
		return err
	}
	p.set(changed)
	return nil
}

// forget drops pods, in memory even when the file can't be written.
func (p *paths) forget(uids ...string) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	changed := p.copied()
	before := len(changed)
	for _, uid := range uids {
		delete(changed, uid)
	}
	if len(changed) == before {
		return nil
	}
	p.set(changed)
	return p.write(changed)
}

func (p *paths) copied() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.byUID)
}

func (p *paths) set(byUID map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byUID = byUID
}

func (p *paths) write(byUID map[string]string) error {
	data, err := json.Marshal(byUID)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p.file), 0o755); err != nil {
		return fmt.Errorf("make the agent's state folder: %w", err)
	}
	temporary := p.file + ".new"
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := os.Rename(temporary, p.file); err != nil {
		return fmt.Errorf("replace state: %w", err)
	}
	return nil
}
