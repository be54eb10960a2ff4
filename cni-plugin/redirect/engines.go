package redirect

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/mesh/socket"
)

// Engine is a way to capture.
type Engine string

// The engines, the best first.
const (
	EBPF           Engine = "ebpf"
	NFT            Engine = "nft"
	IPTablesNFT    Engine = "iptables-nft"
	IPTablesLegacy Engine = "iptables-legacy"
)

// Auto takes the best engine that works.
const Auto = "auto"

// Config says which engines to use.
type Config struct {
	Engine string        // Auto, or the name of the only one to use
	Pins   string        // folder on a bpffs for what the ebpf engine has in pods
	Node   *socket.Netns // the node's own namespace, which is refused; nil is the agent's
	Log    *slog.Logger
}

// Desired is what Set makes of a namespace.
type Desired struct {
	State State // anything but Damaged
	How   How   // in state Capture
	// Listeners are the proxy's in the pod, if it has handed them over, which the ebpf engine needs. They stay the caller's.
	Listeners socket.Given
}

// Found is what a namespace does with traffic.
type Found struct {
	State  State
	How    How    // in state Capture
	Engine Engine // that captures, or has captured; "" in state Removed
}

// Captures tells that new connections go to the proxy.
func (f Found) Captures() bool { return f.State == Capture }

// String says it in a few words.
func (f Found) String() string { return f.State.String() + f.How.String() }

// engine is a way to capture. Its functions are called on a thread in the pod's namespace.
type engine interface {
	name() Engine
	// look tells what of this engine is in the namespace, and only of this one.
	look(place, routing) (found, error)
}

// found is what an engine has in a namespace. It must be closed, and is out of date after set.
type found interface {
	// name is that of the engine that has something there.
	name() Engine
	state() State
	// how is in which way it captures, if it does.
	how() How
	// suits tells why the engine can't do a job here.
	suits(job) error
	// fits tells that capture is what the job wants.
	fits(job) bool
	// needed counts the live connections that would break without the engine.
	needed(sockets []diagSocket, own map[netip.Addr]bool) int
	// remembered are values of sysctls before Tulle, by name.
	remembered() map[string]string
	// set changes the namespace, in a way that can be repeated. Removed leaves the common sysctls as they are.
	set(State, job) error
	// detail tells what there is, and reads what was counted.
	detail() (Detail, error)
	close()
	String() string // for errors: what there is
}

// job is what an engine's set needs to know.
type job struct {
	state     State
	how       How
	listeners socket.Given
	before    map[string]string // values before Tulle of sysctls, as far as another engine remembers them
	leaving   bool              // another engine captures from now on
	alone     bool              // there is no other engine to choose
}

// inherited replaces values that this engine would remember by those that another has remembered before.
func (j job) inherited(values []Sysctl) []Sysctl {
	for i, s := range values {
		if value, ok := j.before[s.Name]; ok {
			values[i].Value = value
		}
	}
	return values
}

// Engines are the engines that work on this node. Its methods may be called from any goroutine, but not at once for one namespace.
type Engines struct {
	cfg Config
	all []engine // the best first; also those that aren't chosen, to remove what they have left
	use map[Engine]bool
}

// New tries the engines out, and takes away what the ebpf engine has left of pods that are gone. Have one agent at most use a
// folder of pins.
func New(cfg Config) (*Engines, error) {
	if !slices.Contains([]Engine{Auto, EBPF, NFT, IPTablesNFT, IPTablesLegacy}, Engine(cfg.Engine)) {
		return nil, fmt.Errorf("engine %q: want %s, %s, %s, %s or %s", cfg.Engine, Auto, EBPF, NFT, IPTablesNFT, IPTablesLegacy)
	}
	use := func(engine Engine) bool { return cfg.Engine == Auto || cfg.Engine == string(engine) }
	e := &Engines{cfg: cfg, use: map[Engine]bool{}}
	rewriter := newRewriter(use)
	ebpf, err := newEBPF(cfg.Pins, cfg.Log)
	e.use[EBPF] = err == nil && use(EBPF)
	if ebpf.root != "" {
		e.all = append(e.all, ebpf) // it may have worked for an agent before
	}
	if err != nil && cfg.Engine == string(EBPF) {
		return nil, fmt.Errorf("capture by ebpf doesn't work here: %w", err)
	}
	if err != nil && cfg.Engine == Auto && rewriter.broken == nil {
		cfg.Log.Warn("capture by ebpf doesn't work here, pods get "+string(rewriter.chosen), "err", err)
	}
	e.all = append(e.all, rewriter)
	e.use[rewriter.chosen] = rewriter.chosen != ""
	if !e.use[EBPF] && rewriter.broken != nil {
		return nil, fmt.Errorf("no engine can capture here: %w", errors.Join(err, rewriter.broken))
	}
	return e, nil
}

// alone tells that one engine is to be used, whatever it can't.
func (e *Engines) alone() bool {
	used := 0
	for _, use := range e.use {
		if use {
			used++
		}
	}
	return used == 1
}

// Sight is what all engines have in a namespace, in the order of the engines. It must be closed, and is out of date after Set.
type Sight struct {
	engines *Engines
	ns      *socket.Netns
	at      place
	all     []found
}

// Look reads what a namespace does with traffic, by its content alone. The node's own namespace is an error.
func (e *Engines) Look(ns *socket.Netns) (s *Sight, err error) {
	if err := e.refuseNode(ns); err != nil {
		return nil, err
	}
	s = &Sight{engines: e, ns: ns}
	err = ns.Do(func() error {
		if s.at, err = openPlace(ns.ID()); err != nil {
			return err
		}
		if s.all, err = e.look(s.at); err != nil {
			s.at.close()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// refuseNode keeps the agent from redirecting the traffic of the node itself.
func (e *Engines) refuseNode(ns *socket.Netns) error {
	node := e.cfg.Node.ID()
	if e.cfg.Node == nil {
		var own unix.Stat_t
		if err := unix.Stat("/proc/thread-self/ns/net", &own); err != nil {
			return fmt.Errorf("look at the agent's own network namespace: %w", err)
		}
		node = socket.NetnsID{Dev: uint64(own.Dev), Ino: own.Ino}
	}
	if ns == nil || ns.ID() == node {
		return errors.New("this is the node's own network namespace, not a pod's: refused")
	}
	return nil
}

// look reads what each engine has, on a thread in the namespace.
func (e *Engines) look(at place) (all []found, err error) {
	routing, err := at.readRouting()
	if err != nil {
		return nil, err
	}
	for _, engine := range e.all {
		f, err := engine.look(at, routing)
		if err != nil {
			closeAll(all)
			return nil, fmt.Errorf("read redirection by %s: %w", engine.name(), err)
		}
		all = append(all, f)
	}
	return all, nil
}

func closeAll(all []found) {
	for _, f := range all {
		f.close()
	}
}

// Close lets go of what was read.
func (s *Sight) Close() {
	closeAll(s.all)
	s.at.close()
}

// Found is the state of all together: what captures counts, whatever else there may be.
func (s *Sight) Found() Found {
	sum := Found{}
	rank := map[State]int{Removed: 0, Draining: 1, Damaged: 2, Capture: 3}
	for _, f := range s.all {
		if state := f.state(); rank[state] > rank[sum.State] {
			sum = Found{State: state, Engine: f.name()}
			if state == Capture {
				sum.How = f.how()
			}
		}
	}
	return sum
}

func (s *Sight) job(d Desired) job {
	j := job{state: d.State, how: d.How, listeners: d.Listeners, before: map[string]string{}, alone: s.engines.alone()}
	for _, f := range s.all {
		for name, value := range f.remembered() {
			j.before[name] = value
		}
	}
	return j
}

// choose returns the index of the engine for a job.
func (s *Sight) choose(j job) (int, error) {
	var unsuited []error
	for i, engine := range s.engines.all {
		if !s.engines.use[engine.name()] {
			continue
		}
		err := s.all[i].suits(j)
		if err == nil {
			return i, nil
		}
		unsuited = append(unsuited, fmt.Errorf("capture by %s: %w", engine.name(), err))
	}
	return -1, errors.Join(unsuited...)
}

// Set brings the namespace from what was seen into the desired state, reads it back and returns what it found then. It changes nothing
// where all is in place; otherwise there is no moment in which a new connection could escape. It clears up after an interrupted earlier
// run. An error, as after a change by somebody else since the look, leaves the namespace in a state from which a new Sight's Set can be
// repeated.
func (s *Sight) Set(d Desired) (now Found, err error) {
	if d.State < Removed || d.State > Capture {
		return Found{}, fmt.Errorf("set redirection to %s: not a state to wish for", d.State)
	}
	if d.State != Capture {
		d.How = How{}
	}
	err = s.ns.Do(func() error {
		if err := s.set(d); err != nil {
			return fmt.Errorf("set redirection to %s: %w", d.State, err)
		}
		now, err = s.confirm(d)
		return err
	})
	return now, err
}

// Set looks at the namespace and brings it into the desired state.
func (e *Engines) Set(ns *socket.Netns, d Desired) error {
	s, err := e.Look(ns)
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = s.Set(d)
	return err
}

func (s *Sight) set(d Desired) error {
	switch j := s.job(d); d.State {
	case Removed:
		return s.remove(j)
	case Draining:
		return s.drain(j)
	default:
		return s.capture(j)
	}
}

func (s *Sight) remove(j job) error {
	if s.Found().State != Removed {
		present, err := readSysctls(commonSysctls)
		if err == nil {
			err = setSysctls(present, beforeTulle(present, j.before, true))
		}
		if err != nil {
			return err
		}
	}
	for _, f := range s.all {
		if f.state() != Removed {
			if err := f.set(Removed, j); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Sight) drain(j job) error {
	if s.Found().State == Removed {
		chosen, err := s.choose(j)
		if err != nil {
			return err
		}
		return s.all[chosen].set(Draining, j)
	}
	for _, f := range s.all {
		if state := f.state(); state != Removed && state != Draining {
			if err := f.set(Draining, j); err != nil {
				return err
			}
		}
	}
	return nil
}

// capture has one engine capture, and the others let go: what they have captured lives on as long as it wants, but they get nothing
// new. Until they hear of it, both capture.
func (s *Sight) capture(j job) error {
	chosen, err := s.choose(j)
	if err != nil {
		return err
	}
	if f := s.all[chosen]; f.state() != j.state || !f.fits(j) {
		if err := f.set(j.state, j); err != nil {
			return fmt.Errorf("by %s: %w", s.engines.all[chosen].name(), err)
		}
	}
	j.leaving = true
	for i, f := range s.all {
		if i == chosen || f.state() == Removed {
			continue
		}
		then := Draining
		if f.state() == Draining {
			needed, err := s.stillNeeded(f)
			if err != nil {
				return err
			}
			if needed == 0 {
				then = Removed
			}
		}
		if f.state() == then {
			continue
		}
		if err := f.set(then, j); err != nil {
			return fmt.Errorf("away from %s: %w", f.name(), err)
		}
	}
	return nil
}

func (s *Sight) stillNeeded(f found) (int, error) {
	own, err := s.at.ownAddresses()
	if err != nil {
		return 0, err
	}
	sockets, err := allSockets()
	return f.needed(sockets, own), err
}

// confirm reads the namespace again: what the kernel accepted must be what was meant. What is read isn't of one moment, so where another
// agent has just written the same, it is read once more. And an address of the pod that came after the look, as a link-local one does once
// its link is up, wasn't known to what was set: it is set again.
func (s *Sight) confirm(d Desired) (now Found, err error) {
	for range 2 {
		if now, err = s.compare(d); err == nil {
			return now, nil
		}
	}
	closeAll(s.all)
	if s.all, err = s.engines.look(s.at); err != nil {
		return Found{}, fmt.Errorf("after setting it: %w", err)
	}
	if err := s.set(d); err != nil {
		return Found{}, fmt.Errorf("set redirection to %s again: %w", d.State, err)
	}
	return s.compare(d)
}

func (s *Sight) compare(d Desired) (Found, error) {
	all, err := s.engines.look(s.at)
	if err != nil {
		return Found{}, fmt.Errorf("after setting it: %w", err)
	}
	defer closeAll(all)
	after := &Sight{engines: s.engines, ns: s.ns, at: s.at, all: all}
	now := after.Found()
	if wanted := (Found{d.State, d.How, now.Engine}); now != wanted {
		return now, fmt.Errorf("redirection is %s after setting it to %s: does another program change the pod's rules? found:\n%s", now, wanted, after)
	}
	return now, nil
}

// String lists the redirection.
func (s *Sight) String() string {
	var b strings.Builder
	for _, f := range s.all {
		if f.state() != Removed {
			fmt.Fprintf(&b, "%s: %s\n%s", f.name(), f.state(), f)
		}
	}
	return b.String()
}

// Current tells what the namespace does.
func (e *Engines) Current(ns *socket.Netns) (Found, error) {
	s, err := e.Look(ns)
	if err != nil {
		return Found{}, err
	}
	defer s.Close()
	return s.Found(), nil
}

// Met tells whether Set would have nothing to do.
func (s *Sight) Met(d Desired) (met bool, err error) {
	err = s.ns.Do(func() error {
		met, err = s.met(s.job(d))
		return err
	})
	return met, err
}

func (s *Sight) met(j job) (bool, error) {
	if j.state != Capture {
		return s.Found().State == j.state, nil
	}
	chosen, err := s.choose(j)
	if err != nil || s.all[chosen].state() != j.state || !s.all[chosen].fits(j) {
		return false, err
	}
	for i, f := range s.all {
		switch state := f.state(); {
		case i == chosen || state == Removed:
		case state != Draining:
			return false, nil
		default:
			if needed, err := s.stillNeeded(f); err != nil || needed == 0 {
				return false, err
			}
		}
	}
	return true, nil
}
