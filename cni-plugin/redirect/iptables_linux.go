package redirect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
)

// iptables holds the rules by iptables' own programs, for kernels that have no nftables, or not all that we need of it.
type iptables struct {
	variant Engine
	node    bool // in the node's own namespace, where others have rules, too
}

func (x iptables) name() Engine { return x.variant }

// xheld is what iptables has in a namespace, IPv4 and IPv6.
type xheld struct {
	iptables
	v4, v6 []xtable
}

// read runs no program where there is nothing to see.
func (x iptables) read(at place) (held, error) {
	h := xheld{iptables: x}
	used, err := x.used(at)
	if err != nil || !used {
		return h, err
	}
	for _, each := range []struct {
		program string
		into    *[]xtable
	}{{"iptables", &h.v4}, {"ip6tables", &h.v6}} {
		text, err := x.run(each.program, "save", "", "-c")
		if err != nil {
			return h, err
		}
		*each.into = parseXTables(text)
	}
	return h, nil
}

// used tells whether this variant has any table here. Asking the program would make the legacy variant's tables.
func (x iptables) used(at place) (bool, error) {
	if x.variant == IPTablesLegacy {
		for _, names := range []string{"ip_tables_names", "ip6_tables_names"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + names)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return false, fmt.Errorf("see whether there are rules of %s: %w", x.variant, err)
			}
			if len(text) > 0 {
				return true, nil
			}
		}
		return false, nil
	}
	var tables []*nftables.Table
	err := aside(func() (err error) {
		tables, err = at.rules.ListTables()
		return err
	})
	if err != nil && !unavailable(err) {
		return false, fmt.Errorf("list tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool {
		return t.Family == nftables.TableFamilyIPv4 || t.Family == nftables.TableFamilyIPv6
	}), nil
}

func (h xheld) empty() bool { return len(h.v4) == 0 && len(h.v6) == 0 }

func (h xheld) remembered() map[string]string { return remembered(commentsOf(h.v4)) }

func (h xheld) is(wish Wish) bool {
	return h.String() == xheld{v4: planXTables(wish, ipv4), v6: planXTables(wish, ipv6)}.String()
}

func (h xheld) how() How { return howOf(h.v4) }

func (h xheld) detail() Detail {
	d := Detail{Generation: generation(h.String()), Counts: none()}
	for program, tables := range map[string][]xtable{"iptables": h.v4, "ip6tables": h.v6} {
		d.Counts.xtables(tables)
		for _, table := range tables {
			d.Links = append(d.Links, program+" -t "+table.name)
		}
	}
	slices.Sort(d.Links)
	return d
}

func (h xheld) String() string { return listXTables("iptables", h.v4) + listXTables("ip6tables", h.v6) }

// write is one run of iptables-restore for each family.
func (h xheld) write(wish Wish) error {
	if err := h.restore("iptables", h.v4, planXTables(wish, ipv4)); err != nil {
		return err
	}
	return h.restore("ip6tables", h.v6, planXTables(wish, ipv6))
}

func (h xheld) restore(program string, found, planned []xtable) error {
	text := restore(found, planned)
	if text == "" {
		return nil
	}
	_, err := h.run(program, "restore", text, "--noflush")
	return err
}

const (
	xtablesDeadline = 20 * time.Second
	xtablesWait     = "10"    // seconds for the node's lock
	xtablesMost     = 1 << 20 // bytes of output
)

// run runs a program in the calling thread's namespace: save, restore, or the one without a verb.
func (x iptables) run(program, verb, input string, args ...string) (string, error) {
	name := program + strings.TrimPrefix(string(x.variant), "iptables")
	if verb != "" {
		name += "-" + verb
	}
	if x.node {
		args = append(args, "--wait", xtablesWait)
	}
	ctx, cancel := context.WithTimeout(context.Background(), xtablesDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if !x.node { // then the lock is the pod's, else one slow pod would hold up the node
		cmd.Env = append(cmd.Env, "XTABLES_LOCKFILE=/proc/self/ns/net")
	}
	out, said := limited{}, limited{}
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, errors.Join(err, ctx.Err()), bytes.TrimSpace(said.Bytes()))
	}
	return out.String(), nil
}

// limited refuses what is too much.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > xtablesMost {
		return 0, fmt.Errorf("the pod's rules are more than %d bytes", xtablesMost)
	}
	return l.Buffer.Write(p)
}

// installed tells why the programs can't be run.
func (x iptables) installed() error {
	for _, program := range []string{"iptables", "ip6tables"} {
		if _, err := exec.LookPath(program + strings.TrimPrefix(string(x.variant), "iptables") + "-restore"); err != nil {
			return fmt.Errorf("%w: install iptables; for an image that has it see \"A kernel that is too old\" in docs/troubleshooting.md", err)
		}
	}
	return nil
}
