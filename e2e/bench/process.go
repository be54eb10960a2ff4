package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/cli/wire"
)

// process is a program that runs in a namespace of a site.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.ReadCloser // nil where it goes to the log
	log    string
	ended  chan struct{} // closed when it's gone
}

// launch is a program to start.
type launch struct {
	netns  *wire.Netns
	path   string
	args   []string
	env    []string
	log    string // file
	talks  bool   // its standard output is for us
	silent bool   // its standard input is empty
}

func (l launch) start() (*process, error) {
	log, err := os.OpenFile(l.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{cmd: exec.Command(l.path, l.args...), log: l.log, ended: make(chan struct{})}
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, l.env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// A group of its own, so that Ctrl-C reaches the benchmark alone, which then ends things in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if !l.silent {
		if p.stdin, err = p.cmd.StdinPipe(); err != nil {
			return nil, err
		}
	}
	if l.talks {
		p.cmd.Stdout = nil
		if p.stdout, err = p.cmd.StdoutPipe(); err != nil {
			return nil, err
		}
	}
	if err := l.netns.Do(p.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", l.path, err)
	}
	go func() {
		if l.talks { // Wait would close what is still being read
			p.cmd.Process.Wait()
		} else {
			p.cmd.Wait()
		}
		close(p.ended)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// alive is nil, or an error with the end of its log.
func (p *process) alive() error {
	select {
	case <-p.ended:
		text, _ := os.ReadFile(p.log)
		return fmt.Errorf("%s ended; the end of its log:\n%s", filepath.Base(p.cmd.Path), text[max(0, len(text)-2000):])
	default:
		return nil
	}
}

// patience is how long a program may take to stop in order.
const patience = 3 * time.Second

// stop ends the process, by force if need be.
func (p *process) stop(signal syscall.Signal) {
	p.cmd.Process.Signal(signal)
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.cmd.Process.Kill()
		<-p.ended
	}
}
