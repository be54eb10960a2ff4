package demo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/cli/wire"
)

// Enter replaces the calling process by a program that sees a hosts file of its own. The process must have a mount
// namespace of its own already, so that nobody else sees it; it's how the programs of simulated pods start.
func Enter(hosts string, argv []string) error {
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("run %s: %w", argv[0], err)
	}
	runtime.LockOSThread()
	for _, file := range []string{"/etc/hosts"} {
		err := unix.Mount(hosts, file, "", unix.MS_BIND, "")
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // A machine without such a file gets none.
			return fmt.Errorf("give the pod its own %s: %w", file, err)
		}
	}
	if err := syscall.Exec(program, argv, os.Environ()); err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	return nil
}

// Command prepares a program to run in the namespace of a pod or node, with the services' names for pods. The caller
// sets its files, and runs it with Run.
func (c *Cluster) Command(place string, argv []string) (*Command, error) {
	netns, err := c.Netns(place)
	if err != nil {
		return nil, err
	}
	if _, pod, err := c.spec.pod(place); err == nil {
		argv = append([]string{c.spec.Programs.Tulle, "demo", "enter", c.path("hosts/" + pod.Namespace), "--"}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return &Command{Cmd: cmd, netns: netns}, nil
}

// Command is a program that is to run inside a namespace.
type Command struct {
	*exec.Cmd
	netns *wire.Netns
}

// Run starts the program inside its namespace and waits for its end.
func (c *Command) Run() error {
	if err := c.netns.Do(c.Start); err != nil {
		return err
	}
	return c.Wait()
}
