package redirect

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// Probes has the kubelet's probes pass capture, by rules in the node's own namespace. They are there while any pod is enrolled, and like
// those of pods they outlive the agent. Its methods may be called from any goroutine.
type Probes struct {
	node   *socket.Netns
	log    *slog.Logger
	holder exempter
	others []exempter // may have been used before

	working sync.Mutex   // held by who looks at the node and changes it; taken before mu
	open    bool         // guarded by working, as the next
	other   []netip.Addr // addresses that passed by other means, before Open

	mu    sync.Mutex              // guards what follows
	pods  map[string][]netip.Addr // those that are enrolled, by UID
	asked int                     // counts changes of pods
	met   int                     // how many of them are done
}

// exempter holds the rules. Its functions are called on a thread in the node's namespace.
type exempter interface {
	name() Engine
	exempted(place) (exemption, error)
	// planned is how the exemption of these addresses reads.
	planned([]netip.Addr) string
	// exempt makes what was found into the exemption of these addresses, in one step for each family. Without any nothing is left.
	exempt(at place, found exemption, addrs []netip.Addr) error
}

// exemption is what an exempter has.
type exemption struct {
	text  string
	addrs []netip.Addr
	held  any // the exempter's own
}

// NewProbes tries out how rules can be made. The namespace, nil for the agent's own, stays the caller's.
func NewProbes(node *socket.Netns, log *slog.Logger) (*Probes, error) {
	return newProbes(node, log, func(Engine) bool { return true })
}

func newProbes(node *socket.Netns, log *slog.Logger, may func(Engine) bool) (*Probes, error) {
	p := &Probes{node: node, log: log, pods: map[string][]netip.Addr{}}
	var broken []error
	for _, e := range []exempter{nft{}, iptables{variant: IPTablesNFT, node: true}, iptables{variant: IPTablesLegacy, node: true}} {
		if x, ok := e.(iptables); ok {
			if err := x.installed(); err != nil {
				broken = append(broken, fmt.Errorf("by %s: %w", e.name(), err))
				continue
			}
		}
		if p.holder != nil || !may(e.name()) {
			p.others = append(p.others, e)
			continue
		}
		if err := thrownAway(func() error { return atPlace(func(at place) error { return rehearseProbes(at, e) }) }); err != nil {
			broken = append(broken, fmt.Errorf("by %s: %w", e.name(), err))
			p.others = append(p.others, e)
			continue
		}
		p.holder = e
	}
	if p.holder == nil {
		return nil, fmt.Errorf("the kubelet's probes can't be let through to pods: %w", errors.Join(broken...))
	}
	return p, nil
}

// atPlace runs f with what reads and writes the calling thread's namespace.
func atPlace(f func(place) error) error {
	at, err := openPlace(socket.NetnsID{})
	if err != nil {
		return err
	}
	defer at.close()
	return f(at)
}

// inside runs f on a thread in the node's namespace.
func (p *Probes) inside(f func(place) error) error {
	return p.node.Do(func() error { return atPlace(f) })
}

func rehearseProbes(at place, e exempter) error {
	for _, addrs := range [][]netip.Addr{{netip.MustParseAddr("192.0.2.1")}, {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}, nil} {
		found, err := e.exempted(at)
		if err == nil {
			err = e.exempt(at, found, addrs)
		}
		if err == nil {
			found, err = e.exempted(at)
		}
		if err == nil && found.text != e.planned(addrs) {
			err = fmt.Errorf("rules aren't read back as they were written:\n%s", found.text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Exempt notes that a pod with these addresses is enrolled, and returns when probes of them pass. Without an address nothing is done yet.
func (p *Probes) Exempt(uid string, addrs []netip.Addr) error {
	own := []netip.Addr{}
	for _, addr := range addrs {
		if addr = addr.Unmap().WithZone(""); addr.IsValid() && !addr.IsLoopback() && !addr.IsUnspecified() && !addr.IsMulticast() {
			own = append(own, addr)
		}
	}
	own = inOrder(own)
	p.mu.Lock()
	known, ok := p.pods[uid]
	if ok && p.met == p.asked && slices.Equal(known, own) {
		p.mu.Unlock()
		return nil
	}
	p.pods[uid] = own
	return p.settleUnlocking()
}

// Release notes that a pod isn't enrolled any more. An address that another pod has by now stays.
func (p *Probes) Release(uid string) error {
	p.mu.Lock()
	if _, ok := p.pods[uid]; !ok && p.met == p.asked {
		p.mu.Unlock()
		return nil
	}
	delete(p.pods, uid)
	return p.settleUnlocking()
}

// settleUnlocking lets go of mu and returns when the change is done. Many pods may come at a time: who is in the node takes along what
// others have asked for by then.
func (p *Probes) settleUnlocking() error {
	p.asked++
	ticket := p.asked
	p.mu.Unlock()
	p.working.Lock()
	defer p.working.Unlock()
	if met, _ := p.progress(); met >= ticket {
		return nil
	}
	_, err := p.mend()
	return err
}

func (p *Probes) progress() (met, asked int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.met, p.asked
}

// Open comes when every pod that was enrolled before is known: only now is anything changed. What was made by other means goes. After an
// error Mend and Exempt try again.
func (p *Probes) Open() error {
	p.working.Lock()
	defer p.working.Unlock()
	p.open = true
	err := p.inherit()
	if err == nil {
		_, err = p.mend()
	}
	if err != nil {
		return err
	}
	if err := p.sweep(); err != nil {
		p.log.Warn("rules for the node's probes that were made by other means may be left", "err", err)
	}
	p.log.Info("probes of the node pass", "by", p.holder.name())
	return nil
}

// Passing are the addresses in the node's namespace whose probes pass now.
func (p *Probes) Passing() (addrs []netip.Addr, err error) {
	err = p.inside(func(at place) error {
		found, err := p.holder.exempted(at)
		addrs = inOrder(found.addrs)
		return err
	})
	return addrs, err
}

// Mend puts right what somebody has changed.
func (p *Probes) Mend() error {
	p.working.Lock()
	defer p.working.Unlock()
	met, asked := p.progress()
	mended, err := p.mend()
	if mended && met == asked && err == nil {
		p.log.Warn("rules for the node's probes are back: somebody had changed them")
	}
	return err
}

// Remove takes everything away.
func (p *Probes) Remove() error {
	p.working.Lock()
	defer p.working.Unlock()
	p.open = false
	return errors.Join(p.inside(func(at place) error { return errors.Join(clearProbes(at, p.holder), at.routeBranches(nil)) }), p.sweep())
}

// mend makes the rules what they must be, and tells whether they weren't.
func (p *Probes) mend() (mended bool, err error) {
	if !p.open {
		return false, nil
	}
	asked := 0
	err = p.inside(func(at place) error {
		found, err := p.holder.exempted(at)
		if err != nil {
			return err
		}
		var wanted []netip.Addr
		wanted, asked = p.wanted(found.addrs)
		if len(wanted) > mostAddresses {
			return fmt.Errorf("pods of the node have %d addresses, more than %d", len(wanted), mostAddresses)
		}
		if err := at.routeBranches(wanted); err != nil {
			return err
		}
		if mended = found.text != p.holder.planned(wanted); !mended {
			return nil
		}
		if err := p.holder.exempt(at, found, wanted); err != nil {
			return err
		}
		now, err := p.holder.exempted(at)
		if err == nil && now.text != p.holder.planned(wanted) {
			err = fmt.Errorf("they aren't as they were made: does another program change them? found:\n%s", now.text)
		}
		return err
	})
	if err != nil {
		return mended, fmt.Errorf("rules in the node for the kubelet's probes: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.met = asked
	return mended, nil
}

// wanted are the addresses of enrolled pods after so many changes. While one's are not known, those that are found may be its.
func (p *Probes) wanted(found []netip.Addr) (wanted []netip.Addr, asked int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, addrs := range p.pods {
		wanted = append(wanted, addrs...)
		if len(addrs) == 0 {
			wanted = append(append(wanted, found...), p.other...)
		}
	}
	return inOrder(wanted), p.asked
}

func inOrder(addrs []netip.Addr) []netip.Addr {
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// inherit notes what other means than ours let pass.
func (p *Probes) inherit() error {
	return p.inside(func(at place) error {
		for _, other := range p.others {
			found, err := other.exempted(at)
			if err != nil {
				return fmt.Errorf("look for rules for probes of %s: %w", other.name(), err)
			}
			p.other = append(p.other, found.addrs...)
		}
		return nil
	})
}

// sweep removes what was made by other means than ours: by an agent before this one, or by Istio's.
func (p *Probes) sweep() error {
	return p.inside(func(at place) error {
		var errs []error
		for _, other := range p.others {
			errs = append(errs, clearProbes(at, other))
		}
		for _, set := range []string{probeSet4, probeSet6} {
			if err := netlink.IpsetDestroy(set); err != nil && !gone(err) && !unavailable(err) && !errors.Is(err, unix.EINVAL) { // no such set, or no sets at all
				errs = append(errs, fmt.Errorf("remove ipset %s: %w", set, err))
			}
		}
		return errors.Join(errs...)
	})
}

func clearProbes(at place, e exempter) error {
	found, err := e.exempted(at)
	if err == nil && found.text != "" {
		err = e.exempt(at, found, nil)
	}
	if err != nil {
		return fmt.Errorf("remove rules for probes of %s: %w", e.name(), err)
	}
	return nil
}

func (nft) planned(addrs []netip.Addr) string { return Rules{Tables: planProbes(addrs)}.String() }

func (nft) exempted(at place) (found exemption, err error) {
	var tables []Table
	err = aside(func() (err error) {
		if tables, err = readTables(at.rules); err != nil {
			return err
		}
		for i := range tables {
			if tables[i].Sets, err = readSets(at.rules, tables[i].Name); err != nil {
				return err
			}
			for _, set := range tables[i].Sets {
				found.addrs = append(found.addrs, set.Addrs...)
			}
		}
		return nil
	})
	found.text, found.held = Rules{Tables: tables}.String(), tables
	return found, err
}

func readSets(conn *nftables.Conn, name string) ([]Set, error) {
	sets, err := conn.GetSets(table(name))
	if err != nil {
		return nil, fmt.Errorf("list sets of table %s: %w", name, err)
	}
	var found []Set
	for _, set := range sets {
		elements, err := conn.GetSetElements(set)
		if err != nil {
			return nil, fmt.Errorf("list set %s: %w", set.Name, err)
		}
		each := Set{Name: set.Name}
		for _, element := range elements {
			if addr, ok := netip.AddrFromSlice(element.Key); ok {
				each.Addrs = append(each.Addrs, addr)
			}
		}
		each.Addrs = inOrder(each.Addrs)
		found = append(found, each)
	}
	slices.SortFunc(found, func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

func (nft) exempt(at place, found exemption, addrs []netip.Addr) error {
	held, _ := found.held.([]Table)
	return aside(func() error { return writeTables(at.rules, held, planProbes(addrs)) })
}

// xprobes is what iptables has, IPv4 and IPv6.
type xprobes struct{ v4, v6 []string }

func (x xprobes) String() string {
	return strings.Join(append(append([]string{}, x.v4...), x.v6...), "\n")
}

func (x iptables) planned(addrs []netip.Addr) string {
	return xprobes{planXProbes(addrs, ipv4), planXProbes(addrs, ipv6)}.String()
}

// exempted asks for our chain and the one before it only: on a node there may be a great many others.
func (x iptables) exempted(at place) (exemption, error) {
	used, err := x.used(at)
	if err != nil || !used {
		return exemption{}, err
	}
	var found xprobes
	for _, each := range []struct {
		program string
		into    *[]string
	}{{"iptables", &found.v4}, {"ip6tables", &found.v6}} {
		text := ""
		for _, chain := range []string{"POSTROUTING", postrtChain} {
			more, err := x.run(each.program, "", "", "-t", "nat", "-S", chain)
			if code := (*exec.ExitError)(nil); errors.As(err, &code) && (code.ExitCode() == 1 || code.ExitCode() == 3) {
				continue // there is no such chain, or the kernel has no such table
			}
			if err != nil {
				return exemption{}, err
			}
			text += more
		}
		*each.into = parseXProbes(text)
	}
	return exemption{text: found.String(), addrs: probeAddrs(append(append([]string{}, found.v4...), found.v6...)), held: found}, nil
}

func (x iptables) exempt(_ place, found exemption, addrs []netip.Addr) error {
	held, _ := found.held.(xprobes)
	for _, each := range []struct {
		program        string
		found, planned []string
	}{{"iptables", held.v4, planXProbes(addrs, ipv4)}, {"ip6tables", held.v6, planXProbes(addrs, ipv6)}} {
		if slices.Equal(each.found, each.planned) {
			continue
		}
		if _, err := x.run(each.program, "restore", restoreProbes(each.found, each.planned), "--noflush"); err != nil {
			return err
		}
	}
	return nil
}
