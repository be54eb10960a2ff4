package enroll

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/tulle-mesh/tulle/mesh/status"
)

// Statuses is Published in a file that the control plane reads. It is safe for concurrent use. It keeps
// quiet until Open, so that a restarted agent first learns what is enrolled and then replaces the file as a whole.
type Statuses struct {
	path string
	node string

	mu   sync.Mutex
	open bool
	pods map[string]status.Pod // by key; pods of the same name may follow one another
	kept map[string]bool       // by key: published by an earlier agent, and not by this one yet
}

// NewStatuses publishes in dir/<node>.yaml.
func NewStatuses(dir, node string) *Statuses {
	return &Statuses{path: filepath.Join(dir, node+".yaml"), node: node, pods: map[string]status.Pod{}, kept: map[string]bool{}}
}

// Keep leaves what an earlier agent has published of the pod as it is. After Open that was decided.
func (s *Statuses) Keep(pod Pod) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open {
		return nil
	}
	data, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read what was published: %w", err)
	}
	earlier, err := status.Decode(data)
	if err != nil {
		return fmt.Errorf("what was published is withdrawn: %w", err)
	}
	if said := earlier.Pods[pod.Key()]; said.UID == pod.UID {
		s.pods[pod.Key()], s.kept[pod.Key()] = said, true
	}
	return nil
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

// Set publishes a pod's state. It returns when readers can see it.
func (s *Statuses) Set(pod Pod, state status.State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := status.Pod{UID: pod.UID, State: state}
	if s.pods[pod.Key()] == next {
		delete(s.kept, pod.Key())
		return nil
	}
	changed := maps.Clone(s.pods)
	changed[pod.Key()] = next
	return s.replaceLocked(pod, changed)
}

// Remove withdraws a pod's state, unless it's already that of a newer pod with the same name.
func (s *Statuses) Remove(pod Pod) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pods[pod.Key()].UID != pod.UID {
		return nil
	}
	changed := maps.Clone(s.pods)
	delete(changed, pod.Key())
	return s.replaceLocked(pod, changed)
}

// Enabled tells whether the pod, and not one of the same name, is published as enabled, and by this agent.
func (s *Statuses) Enabled(pod Pod) bool {
	return s.Said(pod) == status.Enabled && !s.keeps(pod)
}

func (s *Statuses) keeps(pod Pod) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept[pod.Key()]
}

// Said is what is published of the pod, and not of one of the same name.
func (s *Statuses) Said(pod Pod) status.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	if said := s.pods[pod.Key()]; said.UID == pod.UID {
		return said.State
	}
	return ""
}

// All returns a copy of what is published.
func (s *Statuses) All() map[string]status.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.pods)
}

// replaceLocked keeps the old content when the new one can't be written, so that a retry writes it.
func (s *Statuses) replaceLocked(changed Pod, pods map[string]status.Pod) error {
	if err := (status.File{Node: s.node, Pods: pods}).Check(); err != nil {
		return fmt.Errorf("publish status: %w", err) // one bad name would make the whole file unreadable
	}
	if s.open {
		if err := s.writeLocked(pods); err != nil {
			return err
		}
	}
	s.pods = pods
	delete(s.kept, changed.Key())
	return nil
}

// writeLocked replaces the file by rename, so that readers never see half of it.
func (s *Statuses) writeLocked(pods map[string]status.Pod) error {
	temporary := filepath.Join(filepath.Dir(s.path), "."+filepath.Base(s.path)+".new")
	if err := os.WriteFile(temporary, status.Encode(status.File{Node: s.node, Pods: pods}), 0o644); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	if err := os.Rename(temporary, s.path); err != nil {
		return fmt.Errorf("publish status: %w", err)
	}
	return nil
}
