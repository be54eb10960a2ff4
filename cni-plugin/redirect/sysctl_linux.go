package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Sysctl is a kernel setting of a namespace.
type Sysctl struct{ Name, Value string }

// sysctl is a setting that we need to be another.
type sysctl struct {
	name   string
	wanted string
	usual  string // the kernel's default, assumed where the remembered value was lost
	most   string // the highest value there is; all are one digit
}

// commonSysctls are what the proxy needs in a pod, however it is captured.
var commonSysctls = []sysctl{
	// Else it can dial the app from one source address only a few hundred times a second.
	{"net.ipv4.tcp_tw_reuse", "1", "2", "2"},
	// Connections that wait in the queue of a listener that is closed go to another one on its port: that of the proxy's next
	// generation, should that have opened its own. Since Linux 5.14.
	{"net.ipv4.tcp_migrate_req", "1", "0", "1"},
}

// ebpfSysctls are in addition to those. What is turned around on its way out comes in by lo, and from an address of the pod.
var ebpfSysctls = append(slices.Clone(commonSysctls), sysctl{"net.ipv4.conf.lo.accept_local", "1", "0", "1"})

// find returns what is known of a sysctl of ours.
func find(name string) sysctl {
	at := slices.IndexFunc(ebpfSysctls, func(s sysctl) bool { return s.name == name })
	return ebpfSysctls[at]
}

// wantedSysctls are the values for the sysctls that there are.
func wantedSysctls(present []Sysctl) (wanted []Sysctl) {
	for _, p := range present {
		wanted = append(wanted, Sysctl{p.Name, find(p.Name).wanted})
	}
	return wanted
}

// beforeTulle are the values before Tulle of the sysctls that there are. An interrupted run may have lost what was remembered; then a
// value that we'd set is taken for ours, if there is anything of ours. An earlier version may not have known all of them.
func beforeTulle(present []Sysctl, kept map[string]string, ours bool) []Sysctl {
	before := slices.Clone(present)
	for i, now := range before {
		s := find(now.Name)
		if value, ok := kept[s.name]; ok {
			before[i].Value = value
		} else if ours && now.Value == s.wanted {
			before[i].Value = s.usual
		}
	}
	return before
}

func setSysctls(present, wanted []Sysctl) error {
	for _, s := range wanted {
		if slices.Contains(present, s) {
			continue
		}
		if err := writeSysctl(s.Name, s.Value); err != nil {
			return err
		}
	}
	return nil
}

const rememberedAs = "before:"

// remember makes the comment that keeps old values in the kernel, where they outlive the agent.
func remember(values []Sysctl) string {
	comment := rememberedAs
	for _, s := range values {
		comment += " " + s.Name + "=" + s.Value
	}
	return comment
}

// remembered finds that comment's values among the comments of an earlier run.
func remembered(comments []string) map[string]string {
	values := map[string]string{}
	for _, comment := range comments {
		text, ok := strings.CutPrefix(comment, rememberedAs)
		for _, s := range commonSysctls {
			_, value, _ := strings.Cut(" "+text+" ", " "+s.name+"=")
			if value, _, _ = strings.Cut(value, " "); ok && len(value) == 1 && value >= "0" && value <= s.most {
				values[s.name] = value
			}
		}
	}
	return values
}

// readSysctls returns the present values; what the kernel doesn't know is left out.
func readSysctls(which []sysctl) (values []Sysctl, err error) {
	for _, s := range which {
		value, err := readSysctl(s.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		values = append(values, Sysctl{s.name, value})
	}
	return values, nil
}

// sysctlPath is below sys/net of a proc, which shows the namespace of the thread that opens it.
func sysctlPath(proc, name string) string { return proc + "/sys/" + strings.ReplaceAll(name, ".", "/") }

func readSysctl(name string) (string, error) {
	data, err := os.ReadFile(sysctlPath("/proc", name))
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", name, err)
	}
	return strings.TrimSpace(string(data)), nil
}

// writeSysctl also works in a container that isn't privileged, where runtimes make /proc/sys read-only.
func writeSysctl(name, value string) error {
	err := os.WriteFile(sysctlPath("/proc", name), []byte(value), 0)
	if errors.Is(err, unix.EROFS) {
		err = writePrivately(name, value)
	}
	if err != nil {
		return fmt.Errorf("write sysctl %s: %w", name, err)
	}
	return nil
}

// writePrivately writes by a proc of our own, which is mounted nowhere.
func writePrivately(name, value string) error {
	system, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("/proc/sys is read-only, and no proc can be opened: %w; has the agent CAP_SYS_ADMIN?", err)
	}
	defer unix.Close(system)
	if err := unix.FsconfigCreate(system); err != nil {
		return fmt.Errorf("/proc/sys is read-only, and no proc can be made: %w", err)
	}
	proc, err := unix.Fsmount(system, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("/proc/sys is read-only, and no proc can be used: %w", err)
	}
	defer unix.Close(proc)
	return os.WriteFile(sysctlPath(fmt.Sprintf("/proc/thread-self/fd/%d", proc), name), []byte(value), 0)
}

// hasIPv6 tells whether the namespace's loopback can do IPv6; where not, the kernel refuses our IPv6 route.
func hasIPv6() (bool, error) {
	value, err := readSysctl("net.ipv6.conf.lo.disable_ipv6")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return value == "0", err
}
