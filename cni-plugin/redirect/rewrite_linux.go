package redirect

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// rewriter is the engines that capture by rewriting addresses. They differ in how the rules come into the kernel, and in nothing else:
// what was captured lives on whoever holds the rules, so a pod goes from one of them to another in one step.
type rewriter struct {
	holders []holder
	chosen  Engine
	broken  error // why none of those that may be used works
}

// holder holds rules.
type holder interface {
	name() Engine
	// read tells what it holds in a namespace, on a thread there.
	read(place) (held, error)
}

// held is what a holder holds in a namespace, and is out of date after write.
type held interface {
	name() Engine
	empty() bool
	is(Wish) bool
	// how is in which way they capture, if they do.
	how() How
	detail() Detail
	// write makes it what is wished for, in one step for each family.
	write(Wish) error
	remembered() map[string]string
	String() string
}

// newRewriter takes the first of the engines that works.
func newRewriter(use func(Engine) bool) *rewriter {
	r := &rewriter{holders: []holder{nft{}}}
	var broken []error
	for _, x := range []iptables{{variant: IPTablesNFT}, {variant: IPTablesLegacy}} {
		if err := x.installed(); err == nil {
			r.holders = append(r.holders, x)
		} else if use(x.variant) {
			broken = append(broken, fmt.Errorf("capture by %s: %w", x.variant, err))
		}
	}
	for _, h := range r.holders {
		if !use(h.name()) {
			continue
		}
		err := thrownAway(func() error { return rehearse(h) })
		if err == nil {
			r.chosen = h.name()
			return r
		}
		broken = append(broken, fmt.Errorf("capture by %s: %w", h.name(), err))
	}
	r.broken = errors.Join(broken...)
	return r
}

// thrownAway runs f in a network namespace that is thrown away.
func thrownAway(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocks: the thread ends with the goroutine, unless it's the process's first
		result <- elsewhere(f)
	}()
	return <-result
}

func elsewhere(f func() error) error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open the process's own network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace (needs CAP_SYS_ADMIN): %w", err)
	}
	return errors.Join(f(), unix.Setns(int(home.Fd()), unix.CLONE_NEWNET))
}

// rehearse does what is done with every pod.
func rehearse(h holder) error {
	at, err := openPlace(socket.NetnsID{})
	if err != nil {
		return err
	}
	defer at.close()
	v6, err := hasIPv6()
	if err != nil {
		return err
	}
	for _, wish := range []Wish{{State: Capture, How: How{DNS: true, Virtual: "virtual0"}}, {State: Draining}, {State: Removed}} {
		wish.IPv6 = v6
		f, err := h.read(at)
		if err == nil {
			err = f.write(wish)
		}
		if err == nil {
			f, err = h.read(at)
		}
		if err == nil && !f.is(wish) {
			err = fmt.Errorf("rules for state %s aren't read back as they were written:\n%s", wish.State, f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *rewriter) name() Engine { return r.chosen }

func (r *rewriter) look(at place, routing routing) (found, error) {
	f := &rewritten{rewriter: r, at: at, routing: routing}
	// Before the rules: another agent that has changed them has written before what they were.
	var err error
	if f.sysctls, err = readSysctls(commonSysctls); err != nil {
		return nil, err
	}
	for _, h := range r.holders {
		each, err := h.read(at)
		if err != nil {
			return nil, err
		}
		f.held = append(f.held, each)
	}
	f.ipv6, err = hasIPv6()
	return f, err
}

// rewritten is what was seen in a namespace.
type rewritten struct {
	*rewriter
	at      place
	held    []held
	routing routing
	ipv6    bool
	sysctls []Sysctl // present values
}

func (f *rewritten) close() {}

// name is that of the one that holds rules.
func (f *rewritten) name() Engine {
	for _, h := range f.held {
		if !h.empty() {
			return h.name()
		}
	}
	return f.chosen
}

func (f *rewritten) holding() (holding []held) {
	return slices.DeleteFunc(slices.Clone(f.held), held.empty)
}

func (f *rewritten) empty() bool { return len(f.holding()) == 0 && len(f.routing.returnPath()) == 0 }

// String lists the redirection in the form of Rules.String.
func (f *rewritten) String() string {
	var b strings.Builder
	for _, h := range f.holding() {
		b.WriteString(h.String())
	}
	b.WriteString(Rules{Routes: f.routing.returnPath(), Sysctls: f.sysctls}.String())
	return b.String()
}

// state compares what was found with the plans.
func (f *rewritten) state() State {
	if f.empty() {
		return Removed
	}
	holding := f.holding()
	if len(holding) != 1 {
		return Damaged
	}
	for _, state := range []State{Capture, Draining} {
		wish := f.wish(state, holding[0].how())
		plan := Plan(wish)
		if slices.Equal(f.routing.returnPath(), plan.Routes) && slices.Equal(f.sysctls, plan.Sysctls) && holding[0].is(wish) {
			return state
		}
	}
	return Damaged
}

// how is that of the one that holds rules.
func (f *rewritten) how() How {
	for _, h := range f.holding() {
		return h.how()
	}
	return How{}
}

func (f *rewritten) detail() (Detail, error) {
	for _, h := range f.holding() {
		return h.detail(), nil
	}
	return Detail{}, nil
}

func (f *rewritten) wish(state State, how How) Wish {
	return Wish{State: state, How: how, IPv6: f.ipv6, Remembered: beforeTulle(f.sysctls, f.remembered(), !f.empty())}
}

func (f *rewritten) remembered() map[string]string {
	values := map[string]string{}
	for _, h := range slices.Backward(f.held) {
		for name, value := range h.remembered() {
			values[name] = value
		}
	}
	return values
}

// set changes the namespace. On the way in, the return path exists before a rule needs it, and the old sysctl value is remembered
// before it changes; on the way out, the reverse.
func (f *rewritten) set(desired State, job job) error {
	if desired == Removed {
		if err := f.release(""); err != nil {
			return err
		}
		return f.at.removeRoutes(f.routing)
	}
	if f.broken != nil {
		return f.broken
	}
	wish := f.wish(desired, job.how)
	wish.Remembered = job.inherited(wish.Remembered)
	plan := Plan(wish)
	if err := f.at.addRoutes(plan.Routes); err != nil {
		return err
	}
	for _, h := range f.held {
		if h.name() == f.chosen {
			if err := h.write(wish); err != nil {
				return err
			}
		}
	}
	if err := f.release(f.chosen); err != nil {
		return err
	}
	return setSysctls(f.sysctls, plan.Sysctls)
}

// release takes all rules away but those of one holder.
func (f *rewritten) release(but Engine) error {
	for _, h := range f.holding() {
		if h.name() == but {
			continue
		}
		if err := h.write(Wish{State: Removed}); err != nil {
			return err
		}
	}
	return nil
}

// needed counts the connections whose addresses are rewritten, also those that are just beginning or ending.
func (f *rewritten) needed(sockets []diagSocket, _ map[netip.Addr]bool) int {
	count := 0
	for _, s := range sockets {
		if s.local.Port() == PortOutbound || s.local.Port() == PortInbound {
			count++
		}
	}
	return count
}

func (f *rewritten) suits(job) error { return f.broken }

// fits tells also that the rules are held by the engine that was chosen.
func (f *rewritten) fits(j job) bool { return f.name() == f.chosen && f.how() == j.how }
