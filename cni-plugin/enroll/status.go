package enroll

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// Status is a pod's published state.
type Status string

const (
	// Enabled means captured: peers may dial the pod's tunnel port.
	Enabled Status = "enabled"
	// Pending means that the pod should be captured but isn't yet.
	Pending Status = "pending"
)

// Statuses publishes the node's pods in a file that the control plane reads. It is safe for concurrent use. It keeps
// quiet until Open, so that a restarted agent first learns what is enrolled and then replaces the file as a whole.
type Statuses struct {
	path string
	node string

	mu   sync.Mutex
	open bool
	pods map[string]entry
}

// entry is one pod's line. Pods with the same name may follow one another, so it has an owner.
type entry struct {
	uid    string
	status Status
}

// NewStatuses publishes in dir/<node>.yaml.
func NewStatuses(dir, node string) *Statuses {
	return &Statuses{path: filepath.Join(dir, node+".yaml"), node: node, pods: map[string]entry{}}
}

// Open writes what was set until now, and from now on every change.
func (s *Statuses) Open() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
		return fmt.Errorf("make the status folder: %w", err)
	}
	s.open = true
	return s.writeLocked(s.pods)
}

// Set publishes a pod's status. It returns when readers can see it.
func (s *Statuses) Set(pod Pod, status Status) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := entry{uid: pod.UID, status: status}
	if s.pods[pod.Key()] == next {
		return nil
	}
	changed := maps.Clone(s.pods)
	changed[pod.Key()] = next
	return s.replaceLocked(changed)
}

// Remove withdraws a pod's status, unless it's already that of a newer pod with the same name.
func (s *Statuses) Remove(pod Pod) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pods[pod.Key()].uid != pod.UID {
		return nil
	}
	changed := maps.Clone(s.pods)
	delete(changed, pod.Key())
	return s.replaceLocked(changed)
}

// Enabled tells whether the pod, and not one of the same name, is published as enabled.
func (s *Statuses) Enabled(pod Pod) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pods[pod.Key()] == entry{uid: pod.UID, status: Enabled}
}

// All returns a copy of what is published.
func (s *Statuses) All() map[string]Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]Status{}
	for key, entry := range s.pods {
		all[key] = entry.status
	}
	return all
}

// replaceLocked keeps the old content when the new one can't be written, so that a retry writes it.
func (s *Statuses) replaceLocked(pods map[string]entry) error {
	if s.open {
		if err := s.writeLocked(pods); err != nil {
			return err
		}
	}
	s.pods = pods
	return nil
}

// writeLocked replaces the file by rename, so that readers never see half of it.
func (s *Statuses) writeLocked(pods map[string]entry) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "node: %q\npods:", s.node)
	if len(pods) == 0 {
		b.WriteString(" {}")
	}
	b.WriteString("\n")
	for _, key := range slices.Sorted(maps.Keys(pods)) {
		fmt.Fprintf(&b, "  %q: %s\n", key, pods[key].status)
	}
	temporary := filepath.Join(filepath.Dir(s.path), "."+filepath.Base(s.path)+".new")
	if err := os.WriteFile(temporary, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	if err := os.Rename(temporary, s.path); err != nil {
		return fmt.Errorf("publish status: %w", err)
	}
	return nil
}
