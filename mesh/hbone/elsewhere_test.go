package hbone

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
)

func TestWhichFailuresAreTriedElsewhere(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for _, test := range []struct {
		name string
		err  error
		want bool
	}{
		{"nobody listens", refused, true},
		{"no tunnel", &DialError{Stage: StageConnect, Err: refused}, true},
		{"somebody else answers", &DialError{Stage: StageTLS, Err: errors.New("bad certificate")}, true},
		{"no HTTP/2", &DialError{Stage: StageHTTP2, Err: errors.New("no settings")}, true},
		{"no certificate of our own", &DialError{Stage: StageIdentity, Err: errors.New("CA is down")}, false},
		{"denied by policy", &StatusError{Status: 401}, false},
		{"the address is somebody else's now", &StatusError{Status: 400}, true},
		{"its application can't be reached", &StatusError{Status: 503}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := Elsewhere(test.err); got != test.want {
				t.Errorf("another endpoint is tried: %v, want %v", got, test.want)
			}
		})
	}
}
