package loop

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func TestAwaitConnect(t *testing.T) {
	l := newLoop(t)
	open, addr := listen(t)
	shut, refusing := listen(t)
	closeAll(shut)
	defer closeAll(open)
	for name, test := range map[string]struct {
		addr unix.Sockaddr
		want error
	}{
		"made":    {addr, nil},
		"refused": {refusing, unix.ECONNREFUSED},
	} {
		t.Run(name, func(t *testing.T) {
			fd := dial(t, test.addr)
			defer closeAll(fd)
			got := make(chan error, 2)
			_ = l.Do(func() { l.AwaitConnect(fd, patience, func(err error) { got <- err }) })
			if err := <-got; !errors.Is(err, test.want) {
				t.Errorf("done is told %v, want %v", err, test.want)
			}
			_ = l.Do(func() {
				if w := l.poll.watched[fd]; w.handler != nil {
					t.Error("the socket is still watched")
				}
			})
		})
	}
}

// Who is connected at once shall not wait for another turn: the answer leaves with what the turn sends anyway.
func TestConnectionWithinTheMachineIsToldInTheSameTurn(t *testing.T) {
	l := newManual(t)
	open, addr := listen(t)
	defer closeAll(open)
	fd := dial(t, addr)
	defer closeAll(fd)
	var order []string
	begin := Task{Run: func() {
		l.AwaitConnect(fd, patience, func(err error) { order = append(order, fmt.Sprint(err)) })
		order = append(order, "begun")
	}}
	l.Input(&begin)
	l.Turn()
	if !slices.Equal(order, []string{"begun", "<nil>"}) {
		t.Errorf("in one turn: %q", order)
	}
	if len(l.poll.watched) > fd && l.poll.watched[fd].generation != 0 {
		t.Error("the socket was watched")
	}
	if l.patience() >= 0 {
		t.Error("a timer is left")
	}
}

func TestCancelledConnectIsSilentAlsoWhenItIsMadeAtOnce(t *testing.T) {
	l := newManual(t)
	open, addr := listen(t)
	defer closeAll(open)
	fd := dial(t, addr)
	defer closeAll(fd)
	l.AwaitConnect(fd, patience, func(err error) { t.Errorf("done was told %v", err) }).Cancel()
	l.Turn()
}

// notYet is a socket that never gets writable, as one whose peer doesn't answer.
func notYet(tb testing.TB) (fd, peer int) {
	fd, peer = socketPair(tb)
	for p := make([]byte, 64<<10); ; {
		if _, err := Write(fd, p); err == unix.EAGAIN {
			return fd, peer
		} else if err != nil {
			tb.Fatal(err)
		}
	}
}

func TestAwaitConnectGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newManual(t)
		fd, peer := notYet(t)
		defer closeAll(fd, peer)
		var told error
		l.AwaitConnect(fd, 10*time.Second, func(err error) { told = err })
		if wait := l.Turn(); wait != 10*time.Second || told != nil {
			t.Errorf("the loop waits %v, done was told %v", wait, told)
		}
		time.Sleep(10 * time.Second)
		l.Turn()
		if told == nil || !strings.Contains(told.Error(), "no answer within 10s") {
			t.Errorf("done was told %v", told)
		}
	})
}

func TestCancelledConnectIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newManual(t)
		fd, peer := notYet(t)
		defer closeAll(fd, peer)
		c := l.AwaitConnect(fd, time.Second, func(err error) { t.Errorf("done was told %v", err) })
		l.Turn()
		c.Cancel()
		c.Cancel()
		if wait := l.Turn(); wait >= 0 {
			t.Errorf("the loop still waits for something within %v", wait)
		}
		bad := l.AwaitConnect(1000, time.Second, func(err error) { t.Errorf("done was told %v", err) })
		bad.Cancel()
		l.Turn()
	})
}

func TestAwaitConnectOfWhatIsNoSocket(t *testing.T) {
	l := newManual(t)
	told := make(chan error, 2)
	l.AwaitConnect(1000, time.Second, func(err error) { told <- err })
	if len(told) != 0 {
		t.Error("done was called within AwaitConnect")
	}
	l.Turn()
	if err := <-told; !errors.Is(err, unix.EBADF) {
		t.Errorf("done was told %v", err)
	}
}
