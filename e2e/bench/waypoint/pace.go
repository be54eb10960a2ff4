package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/loop"
)

// pacemaker asks for a job's requests at moments that know nothing of each other. Its clock is a descriptor on the job's own loop: the timers of loops
// and of Go have milliseconds, and a goroutine beside a busy loop waits for its turn, either of which would make requests come in flocks.
type pacemaker struct {
	job  *job
	fd   int
	next time.Time
}

func newPacemaker(j *job) (*pacemaker, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("timerfd_create: %w", err)
	}
	p := &pacemaker{job: j, fd: fd, next: time.Now()}
	if err := j.party.worker.Watch(fd, p); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	p.beat()
	return p, nil
}

// Ready implements loop.Handler.
func (p *pacemaker) Ready(loop.Events) {
	var expirations [8]byte
	if _, err := unix.Read(p.fd, expirations[:]); err == nil { // else it has been told already
		p.beat()
	}
}

// beat asks for what is due, and has itself called when the next request is.
func (p *pacemaker) beat() {
	now := time.Now()
	for !p.next.After(now) {
		p.job.want(p.next)
		p.next = p.next.Add(time.Duration(rand.ExpFloat64() * float64(time.Second) / float64(p.job.Rate)))
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(max(1, time.Until(p.next))))} // nothing at all would stop it
	if err := unix.TimerfdSettime(p.fd, 0, &spec, nil); err != nil {
		p.job.fail(fmt.Errorf("timerfd_settime: %w", err))
	}
}

func (p *pacemaker) end() { p.job.party.worker.Release(p.fd) }
