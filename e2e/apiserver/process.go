package apiserver

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// process is a program that ends when we do.
type process struct {
	cmd   *exec.Cmd
	log   string        // file with its output
	ended chan struct{} // closed when it's gone
}

// launch starts a program with its output at the end of a file. How Go's runtime is set for us holds for it, too.
func launch(path, log string, args ...string) (*process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	p := &process{cmd: exec.Command(path, args...), log: log, ended: make(chan struct{})}
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Dir(log)}
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		if value, set := os.LookupEnv(name); set {
			p.cmd.Env = append(p.cmd.Env, name+"="+value)
		}
	}
	p.cmd.Stdout, p.cmd.Stderr = file, file
	// A group of its own, so that Ctrl-C at the terminal reaches us alone; and nothing is left behind when we are killed.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // whose end is what Pdeathsig is about: it has to live as long as the process
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.cmd.Wait() // Its exit code is of no interest: whoever needs it alive asks that.
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	return p, nil
}

// alive is nil, or an error with the end of the log.
func (p *process) alive() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s ended; the end of its log:\n%s", filepath.Base(p.cmd.Path), tail(p.log))
	default:
		return nil
	}
}

func tail(file string) []byte {
	text, err := os.ReadFile(file)
	if err != nil {
		return []byte(err.Error())
	}
	return text[max(0, len(text)-3000):]
}

// stop asks the process to end, and kills it when it hasn't after the patience.
func (p *process) stop(patience time.Duration) {
	if p == nil {
		return
	}
	p.cmd.Process.Signal(syscall.SIGCONT) // a paused one would never hear
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.cmd.Process.Kill()
		<-p.ended
	}
}

// kill ends the process without a word.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

// until repeats a check until it passes, or the process ends, or the context.
func (p *process) until(ctx context.Context, what string, check func(context.Context) error) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-p.ended:
			return p.alive()
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w; the end of %s:\n%s", what, context.Cause(ctx), err, p.log, tail(p.log))
		}
	}
}
