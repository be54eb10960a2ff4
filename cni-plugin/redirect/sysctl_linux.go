package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Sysctl is a kernel setting of a namespace.
type Sysctl struct{ Name, Value string }

// sysctls are what the proxy needs in a pod.
var sysctls = []struct {
	name   string
	wanted string
	usual  string // the kernel's default, assumed where the remembered value was lost
	most   string // the highest value there is; all are one digit
}{
	// Else it can dial the app from one source address only a few hundred times a second.
	{"net.ipv4.tcp_tw_reuse", "1", "2", "2"},
	// Connections that wait in the queue of a listener that is closed go to another one on its port: that of the proxy's next
	// generation, should that have opened its own. Since Linux 5.14.
	{"net.ipv4.tcp_migrate_req", "1", "0", "1"},
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

// remembered finds that comment's values in tables of an earlier run.
func remembered(tables []Table) map[string]string {
	values := map[string]string{}
	for _, table := range tables {
		for _, chain := range table.Chains {
			for _, rule := range chain.Rules {
				text, _ := strings.CutPrefix(rule.Comment, rememberedAs)
				for _, s := range sysctls {
					_, value, _ := strings.Cut(" "+text+" ", " "+s.name+"=")
					if value, _, _ = strings.Cut(value, " "); text != rule.Comment && len(value) == 1 && value >= "0" && value <= s.most {
						values[s.name] = value
					}
				}
			}
		}
	}
	return values
}

// readSysctls returns the present values; what the kernel doesn't know is left out.
func readSysctls() (values []Sysctl, err error) {
	for _, s := range sysctls {
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

// sysctlPath is below /proc/sys/net, which shows the namespace of the thread that opens it.
func sysctlPath(name string) string { return "/proc/sys/" + strings.ReplaceAll(name, ".", "/") }

func readSysctl(name string) (string, error) {
	data, err := os.ReadFile(sysctlPath(name))
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", name, err)
	}
	return strings.TrimSpace(string(data)), nil
}

func writeSysctl(name, value string) error {
	if err := os.WriteFile(sysctlPath(name), []byte(value), 0); err != nil {
		return fmt.Errorf("write sysctl %s: %w", name, err)
	}
	return nil
}

// hasIPv6 tells whether the namespace's loopback can do IPv6; where not, the kernel refuses our IPv6 route.
func hasIPv6() (bool, error) {
	value, err := readSysctl("net.ipv6.conf.lo.disable_ipv6")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return value == "0", err
}
