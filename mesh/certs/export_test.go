package certs

import "time"

// SetAhead has the manager's wall clock differ from the real one by what ahead returns from now on.
func (m *Manager) SetAhead(ahead func() time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wall = func() time.Time { return wallClock().Add(ahead()) }
}
