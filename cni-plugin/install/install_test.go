package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// host is a machine's folders.
type host struct {
	t    *testing.T
	cfg  Config
	done chan error // what the installer says
	logs *lockedText
}

type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newHost(t *testing.T) *host {
	t.Helper()
	root := t.TempDir()
	h := &host{t: t, done: make(chan error, 10000), logs: new(lockedText)}
	h.cfg = Config{
		Plugin: filepath.Join(root, "tulle-cni"), BinDir: filepath.Join(root, "bin"), ConfDir: filepath.Join(root, "net.d"),
		Settings: settings, Log: slog.New(slog.NewTextHandler(h.logs, nil)), Done: func(err error) { h.done <- err },
	}
	for _, dir := range []string{h.cfg.BinDir, h.cfg.ConfDir} {
		h.must(os.Mkdir(dir, 0o755))
	}
	h.must(os.WriteFile(h.cfg.Plugin, []byte("version 1"), 0o644))
	return h
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// start runs an installer until the test ends or stop.
func (h *host) start() (i *Installer, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	i = New(h.cfg)
	ended := make(chan error, 1)
	go func() { ended <- i.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			h.t.Error(err)
		}
	})
	h.t.Cleanup(stop)
	return i, stop
}

const plain = `{"name":"a","cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}`

// write replaces a configuration as network plugins do.
func (h *host) write(name, text string) {
	h.t.Helper()
	temporary := filepath.Join(h.cfg.ConfDir, "."+name+".tmp")
	h.must(os.WriteFile(temporary, []byte(text), 0o640))
	h.must(os.Rename(temporary, filepath.Join(h.cfg.ConfDir, name)))
}

// chain is the types of a configuration's plugins, or what is wrong with it.
func (h *host) chain(name string) string {
	data, err := os.ReadFile(filepath.Join(h.cfg.ConfDir, name))
	if err != nil {
		return err.Error()
	}
	var l struct{ Plugins []struct{ Type string } }
	if err := json.Unmarshal(data, &l); err != nil {
		return err.Error()
	}
	var types []string
	for _, p := range l.Plugins {
		types = append(types, p.Type)
	}
	return strings.Join(types, " ")
}

func (h *host) program() string {
	data, err := os.ReadFile(filepath.Join(h.cfg.BinDir, "tulle-cni"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func (h *host) eventually(want string, look func() string) {
	h.t.Helper()
	var got string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if got = look(); got == want {
			return
		}
	}
	h.t.Fatalf("it is %q, not %q; log:\n%s", got, want, h.logs)
}

func TestThePluginIsInstalledWhenTheNetworkPluginComes(t *testing.T) {
	h := newHost(t)
	i, _ := h.start()
	if err := <-h.done; !errors.Is(err, errNone) {
		t.Errorf("without a configuration: %v", err)
	}
	if i.Installed() {
		t.Error("it says that it's installed")
	}
	h.eventually("version 1", h.program) // it has come first
	h.write("10-a.conflist", plain)
	h.eventually("ptp tulle-cni", func() string { return h.chain("10-a.conflist") })
	h.eventually("true", func() string { return fmt.Sprint(i.Installed()) })
	info, err := os.Stat(filepath.Join(h.cfg.ConfDir, "10-a.conflist"))
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if info, err = os.Stat(filepath.Join(h.cfg.BinDir, "tulle-cni")); err != nil || info.Mode() != 0o755 {
		t.Errorf("the program's mode %v, %v", info.Mode(), err)
	}
}

func TestItIsInstalledAgainWhenSomebodyTakesItOut(t *testing.T) {
	h := newHost(t)
	h.write("10-a.conflist", plain)
	h.start()
	ours := func() string { return h.chain("10-a.conflist") }
	h.eventually("ptp tulle-cni", ours)
	for range rival + 2 {
		h.write("10-a.conflist", plain)
		h.eventually("ptp tulle-cni", ours)
	}
	h.eventually("true", func() string { return fmt.Sprint(strings.Contains(h.logs.String(), "cni.exclusive=false")) })
	h.write("05-b.conflist", `{"name":"b","cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}`) // runtimes use this one now
	h.eventually("bridge tulle-cni", func() string { return h.chain("05-b.conflist") })
	h.must(os.Remove(filepath.Join(h.cfg.BinDir, "tulle-cni")))
	h.eventually("version 1", h.program)
	h.must(os.RemoveAll(h.cfg.ConfDir))
	h.must(os.Mkdir(h.cfg.ConfDir, 0o755))
	h.write("10-a.conflist", plain)
	h.eventually("ptp tulle-cni", ours)
}

func TestWhatIsBrokenStaysAsItIsAndIsSaid(t *testing.T) {
	h := newHost(t)
	h.write("10-a.conflist", "{")
	i, _ := h.start()
	if err := <-h.done; err == nil || !strings.Contains(err.Error(), "network configuration 10-a.conflist: unexpected end") {
		t.Errorf("error is %v", err)
	}
	data, err := os.ReadFile(filepath.Join(h.cfg.ConfDir, "10-a.conflist"))
	if err != nil || string(data) != "{" || i.Installed() {
		t.Errorf("now it's %q, %v", data, err)
	}
	h.write("10-a.conflist", plain)
	h.eventually("ptp tulle-cni", func() string { return h.chain("10-a.conflist") })
}

func TestUnreadableThingsAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		make func(path string) error
		want string
	}{
		"a pipe":   {func(path string) error { return os.Symlink("/dev/null", path) }, "isn't a regular file"},
		"too long": {func(path string) error { return os.WriteFile(path, make([]byte, maxFile+1), 0o644) }, "more than 1048576"},
	} {
		h := newHost(t)
		h.must(c.make(filepath.Join(h.cfg.ConfDir, "10-a.conflist")))
		if _, err := New(h.cfg).Install(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	h := newHost(t)
	h.write("10-a.conflist", plain)
	h.must(os.Remove(h.cfg.Plugin))
	if _, err := New(h.cfg).Install(); !errors.Is(err, fs.ErrNotExist) || h.chain("10-a.conflist") != "ptp" {
		t.Errorf("without the program, %v: %s", err, h.chain("10-a.conflist"))
	}
}

func TestRemovingLeavesTheHostAsItWas(t *testing.T) {
	h := newHost(t)
	h.write("00-m.conf", `{"name":"m","cniVersion":"1.0.0","type":"multus"}`)
	h.write("10-a.conflist", plain)
	i := New(h.cfg)
	if changed, err := i.Install(); !changed || err != nil {
		t.Fatal(changed, err)
	}
	if changed, err := i.Install(); changed || err != nil {
		t.Errorf("again: %v, %v", changed, err)
	}
	if got := h.chain("00-m.conflist"); got != "multus tulle-cni" {
		t.Errorf("chain is %s", got)
	}
	for range 2 { // the second time, nothing is left to do
		h.must(i.Remove())
		want := "-- 00-m.conf\n{\"name\":\"m\",\"cniVersion\":\"1.0.0\",\"type\":\"multus\"}\n-- 10-a.conflist\n" + plain + "\n"
		if got := text(folderAt(t, h.cfg.ConfDir)); got != want {
			t.Errorf("configurations:\n%s", got)
		}
		if left, err := os.ReadDir(h.cfg.BinDir); err != nil || len(left) > 0 {
			t.Errorf("programs: %v, %v", left, err)
		}
	}
}

// While agents follow one another, with other settings and other programs, a runtime that looks at any time finds the
// program and its entry.
func TestAnUpgradeLeavesNoGap(t *testing.T) {
	h := newHost(t)
	h.write("10-a.conflist", plain)
	if _, err := New(h.cfg).Install(); err != nil {
		t.Fatal(err)
	}
	stop, looks := make(chan struct{}), make(chan int)
	go func() {
		count := 0
		defer func() { looks <- count }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if got := h.chain("10-a.conflist"); got != "ptp tulle-cni" {
				t.Errorf("chain is %s", got)
				return
			}
			if got := h.program(); !strings.HasPrefix(got, "version ") {
				t.Errorf("program is %s", got)
				return
			}
			count++
		}
	}()
	for version := range 50 {
		h.must(os.WriteFile(h.cfg.Plugin, fmt.Appendf(nil, "version %d", version), 0o755))
		h.cfg.Settings.Excluded = []string{"kube-system", fmt.Sprint("n", version)}
		_, end := h.start()
		h.eventually(fmt.Sprint("version ", version), h.program)
		h.eventually("true", func() string {
			data, _ := os.ReadFile(filepath.Join(h.cfg.ConfDir, "10-a.conflist"))
			return fmt.Sprint(strings.Contains(string(data), fmt.Sprintf(`"n%d"`, version)))
		})
		end()
	}
	close(stop)
	if count := <-looks; count < 100 {
		t.Errorf("only %d looks", count)
	}
}

// What a run that was killed half-way has left is overwritten.
func TestAnInterruptedRunIsNoTrouble(t *testing.T) {
	h := newHost(t)
	h.write("10-a.conflist", plain)
	for _, leftover := range []string{filepath.Join(h.cfg.ConfDir, ".10-a.conflist.tulle_new"), filepath.Join(h.cfg.BinDir, ".tulle-cni.tulle_new")} {
		h.must(os.WriteFile(leftover, []byte("half"), 0o400))
	}
	if _, err := New(h.cfg).Install(); err != nil {
		t.Fatal(err)
	}
	if got := h.chain("10-a.conflist") + ", " + h.program(); got != "ptp tulle-cni, version 1" {
		t.Errorf("it is %s", got)
	}
	for _, dir := range []string{h.cfg.ConfDir, h.cfg.BinDir} {
		if left, err := filepath.Glob(filepath.Join(dir, ".*tulle_new")); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}
