package load

import (
	"fmt"
	"io"
	"net/netip"
	"net/rpc"
	"time"
)

// Remote is a load program that runs elsewhere.
type Remote struct {
	rpc *rpc.Client
}

// NewRemote talks to a program by its standard input and output.
func NewRemote(stdin io.WriteCloser, stdout io.ReadCloser) *Remote {
	return &Remote{rpc.NewClient(pipe{stdout, stdin})}
}

// callLimit is longer than anything that can be asked for.
const callLimit = 45 * time.Second

func (r *Remote) call(method string, argument, reply any) error {
	timer := time.NewTimer(callLimit)
	defer timer.Stop()
	call := r.rpc.Go("Load."+method, argument, reply, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		if call.Error != nil {
			return fmt.Errorf("load program: %w", call.Error)
		}
		return nil
	case <-timer.C:
		return fmt.Errorf("load program: no answer to %s within %s", method, callLimit)
	}
}

// Start begins a job; for Idle it returns when all connections stand.
func (r *Remote) Start(job Job) error { return r.call("Start", job, &struct{}{}) }

// Stop ends the job.
func (r *Remote) Stop() error { return r.call("Stop", struct{}{}, &struct{}{}) }

// Read returns the counters.
func (r *Remote) Read() (totals Totals, err error) {
	err = r.call("Read", struct{}{}, &totals)
	return totals, err
}

// First connects until a byte comes back.
func (r *Remote) First(to netip.Addr) (attempt Attempt, err error) {
	err = r.call("First", to, &attempt)
	return attempt, err
}

// Close ends the program.
func (r *Remote) Close() error { return r.rpc.Close() }
