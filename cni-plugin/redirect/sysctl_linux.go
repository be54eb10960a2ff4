package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

const (
	timeWaitReuse = "net.ipv4.tcp_tw_reuse"
	rememberedAs  = "before: " + timeWaitReuse + "="
	// kernelTimeWaitReuse is the kernel's default (loopback only), assumed where the remembered value was lost.
	kernelTimeWaitReuse = "2"
)

// remember makes the comment that keeps a sysctl's old value in the kernel, where it outlives the agent.
func remember(value string) string { return rememberedAs + value }

// remembered finds that comment's value in tables of an earlier run.
func remembered(tables []Table) (string, bool) {
	for _, table := range tables {
		for _, chain := range table.Chains {
			for _, rule := range chain.Rules {
				if value, ok := strings.CutPrefix(rule.Comment, rememberedAs); ok && len(value) == 1 && value >= "0" && value <= "2" {
					return value, true
				}
			}
		}
	}
	return "", false
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
