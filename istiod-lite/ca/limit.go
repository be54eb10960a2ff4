package ca

import (
	"sync"
	"time"
)

// Limit lets each client do something so often: burst times at once, and rate times per second in the long run. It
// remembers at most maxClients; beyond that it forgets the one that has been quiet the longest of a few.
type Limit struct {
	rate  float64
	burst float64

	lock    sync.Mutex
	clients map[string]*allowance
}

// maxClients is more than the nodes of the largest cluster. Each takes some 200 bytes.
const maxClients = 16384

// allowance is what a client had left at some time.
type allowance struct {
	left float64
	at   time.Time
}

// NewLimit makes one in which all clients have their whole burst.
func NewLimit(rate, burst int) *Limit {
	return &Limit{rate: float64(rate), burst: float64(burst), clients: make(map[string]*allowance)}
}

// Allow tells whether the client may do it once more now, and counts it if so.
func (l *Limit) Allow(client string) bool { return l.take(client, 1) }

// Spent tells whether the client has nothing left, and counts nothing.
func (l *Limit) Spent(client string) bool { return !l.take(client, 0) }

func (l *Limit) take(client string, amount float64) bool {
	now := time.Now()
	l.lock.Lock()
	defer l.lock.Unlock()
	one := l.clients[client]
	if one == nil {
		if amount == 0 {
			return true
		}
		l.makeRoom()
		one = &allowance{left: l.burst, at: now}
		l.clients[client] = one
	}
	one.left = min(l.burst, one.left+l.rate*now.Sub(one.at).Seconds())
	one.at = now
	if one.left < 1 {
		return false
	}
	one.left -= amount
	return true
}

// makeRoom forgets the client that was quiet the longest among a few that the map happens to give.
func (l *Limit) makeRoom() {
	if len(l.clients) < maxClients {
		return
	}
	var oldest string
	looked := 0
	for client, one := range l.clients {
		if looked == 0 || one.at.Before(l.clients[oldest].at) {
			oldest = client
		}
		if looked++; looked == 16 {
			break
		}
	}
	delete(l.clients, oldest)
}
