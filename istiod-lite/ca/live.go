package ca

import "sync"

// Live is the authority that signs now. Whoever keeps it replaces it; all others ask for it each time that they need it.
type Live struct {
	lock    sync.Mutex
	current *Authority
	changed chan struct{}
}

// NewLive begins with an authority.
func NewLive(a *Authority) *Live { return &Live{current: a, changed: make(chan struct{})} }

// Authority returns the one that signs now.
func (l *Live) Authority() *Authority {
	l.lock.Lock()
	defer l.lock.Unlock()
	return l.current
}

// RootsPEM returns what clients trust now.
func (l *Live) RootsPEM() []byte { return l.Authority().RootsPEM() }

// RevokedPEM returns the revocation lists that are plugged in with the authority, or nothing.
func (l *Live) RevokedPEM() []byte { return l.Authority().Revoked }

// Changed returns a channel that is closed at the next change. Ask for it before reading what may change.
func (l *Live) Changed() <-chan struct{} {
	l.lock.Lock()
	defer l.lock.Unlock()
	return l.changed
}

// Set lets another authority sign. One that is equal changes nothing, which it tells.
func (l *Live) Set(a *Authority) (changed bool) {
	l.lock.Lock()
	defer l.lock.Unlock()
	if l.current.Equal(a) {
		return false
	}
	l.current = a
	close(l.changed)
	l.changed = make(chan struct{})
	return true
}
