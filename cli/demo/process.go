package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cli/wire"
)

// Process is one program of the cluster. Pid and Start together name it for good: a process id alone may be reused.
type Process struct {
	Name  string `json:"name"`
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks after boot

	ended chan struct{} // closed when our child is gone; nil if another process started it
}

// launch describes a program to start.
type launch struct {
	name  string
	netns *wire.Netns
	args  []string
	env   []string
	log   string
	// fresh gives it a mount namespace of its own, for enter to bind things in.
	fresh bool
}

// start runs a program inside its network namespace, with its output in its log file. The goroutine that waits for it
// ends with it.
func (l launch) start() (*Process, error) {
	log, err := os.OpenFile(l.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", l.name, err)
	}
	defer log.Close()
	cmd := exec.Command(l.args[0], l.args[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, l.env...)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own, so that Ctrl-C at the terminal reaches the demo alone, which then ends things in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if l.fresh {
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	}
	if err := l.netns.Do(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", l.name, err)
	}
	p := &Process{Name: l.name, Pid: cmd.Process.Pid, ended: make(chan struct{})}
	go func() {
		cmd.Wait() // Its exit code is of no interest: whoever needs it alive asks that.
		close(p.ended)
	}()
	p.Start, err = startTime(p.Pid)
	if err != nil {
		return nil, fmt.Errorf("%s ended at once; see %s", l.name, l.log)
	}
	return p, nil
}

// Alive tells whether the process still runs.
func (p *Process) Alive() bool {
	start, err := startTime(p.Pid)
	return err == nil && start == p.Start
}

// signal sends a signal to this very process, and nothing if it is gone.
func (p *Process) signal(signal unix.Signal) error {
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	defer unix.Close(fd)
	if !p.Alive() { // The descriptor may be of a later process with the same id.
		return nil
	}
	if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	return nil
}

// wait returns when the process is gone.
func (p *Process) wait(ctx context.Context) error {
	if p.ended != nil {
		select {
		case <-p.ended:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("%s (process %d) doesn't end: %w", p.Name, p.Pid, context.Cause(ctx))
		}
	}
	return Await(ctx, p.Name+" to end", func(context.Context) error {
		if p.Alive() {
			return fmt.Errorf("process %d still runs", p.Pid)
		}
		return nil
	})
}

// end asks the process to stop, and kills it when it hasn't after the given patience.
func (p *Process) end(ctx context.Context, patience time.Duration) error {
	if err := p.signal(unix.SIGTERM); err != nil {
		return err
	}
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if p.wait(patient) == nil {
		return nil
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		return err
	}
	return p.wait(ctx)
}

// startTime is when a running process began, in clock ticks after boot. A zombie counts as gone.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	// The second field is the name in parentheses, which may contain anything; the third is the state.
	_, rest, ok := bytes.Cut(stat[max(0, bytes.LastIndexByte(stat, ')')):], []byte(" "))
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, fmt.Errorf("process %d: can't read its state", pid)
	}
	if fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// Memory returns a process's resident memory in bytes.
func (p *Process) Memory() (uint64, error) {
	statm, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.Pid), "statm"))
	if err != nil {
		return 0, fmt.Errorf("memory of %s: %w", p.Name, err)
	}
	fields := bytes.Fields(statm)
	if len(fields) < 2 {
		return 0, fmt.Errorf("memory of %s: unexpected %q", p.Name, statm)
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64)
	return pages * uint64(os.Getpagesize()), err
}
