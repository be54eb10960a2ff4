package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/bpf/capture"
	"github.com/tulle-mesh/tulle/bpf/probe"
	"github.com/tulle-mesh/tulle/mesh/socket"
)

// ebpfEngine captures by programs. A pod's maps and links are pinned in a folder that is named after its namespace.
type ebpfEngine struct {
	root   string
	making *sync.RWMutex // locked while what is left of a namespace is removed: another may get its number
}

// newEBPF tries the engine out. One that has a folder can take away what is pinned there, even if an error says that it can't capture.
func newEBPF(pins string, log *slog.Logger) (ebpfEngine, error) {
	if pins == "" {
		return ebpfEngine{}, errors.New("no folder for pinned objects is named")
	}
	if err := probe.Mount(pins); err != nil {
		return ebpfEngine{}, err
	}
	e := ebpfEngine{root: filepath.Join(pins, "tulle-"+capture.Version), making: &sync.RWMutex{}}
	if err := probe.Capture(e.root); err != nil {
		return e, err
	}
	return e, e.sweep(log, func(dir string) (bool, error) {
		netns, err := capture.Netns(dir)
		return netns == 0, err // also of a folder whose making was broken off
	})
}

// Sweep removes what the ebpf engine has left of pods that have ended since. A namespace goes without a word: after the runtime has said that it
// will, and after the last socket in it.
func (e *Engines) Sweep() error {
	for _, engine := range e.all {
		if ebpf, ok := engine.(ebpfEngine); ok {
			return ebpf.sweep(e.cfg.Log, capture.Gone)
		}
	}
	return nil
}

// Leave removes the ebpf engine's folder, unless pods are captured still. No other method may be called afterwards.
func (e *Engines) Leave() error {
	if err := e.Sweep(); err != nil {
		return err
	}
	for _, engine := range e.all {
		ebpf, ok := engine.(ebpfEngine)
		if !ok {
			continue
		}
		if err := os.Remove(ebpf.root); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return nil
}

// sweep removes what is left of namespaces that are gone.
func (e ebpfEngine) sweep(log *slog.Logger, gone func(dir string) (bool, error)) error {
	entries, err := os.ReadDir(e.root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list pinned objects: %w", err)
	}
	for _, entry := range entries {
		dir := filepath.Join(e.root, entry.Name())
		if _, err := strconv.ParseUint(entry.Name(), 10, 64); err != nil {
			continue
		}
		removed, err := e.removeIf(gone, dir)
		if err != nil {
			return err
		}
		if removed {
			log.Info("removed what was pinned for a network namespace that is gone", "netns", entry.Name())
		}
	}
	return nil
}

func (e ebpfEngine) removeIf(gone func(dir string) (bool, error), dir string) (bool, error) {
	e.making.Lock()
	defer e.making.Unlock()
	if yes, err := gone(dir); err != nil || !yes {
		return false, nil // what can't be read may be alive
	}
	return true, capture.Remove(dir)
}

func (e ebpfEngine) dir(id socket.NetnsID) string {
	return filepath.Join(e.root, strconv.FormatUint(id.Ino, 10))
}

func (ebpfEngine) name() Engine { return EBPF }

// Listen gives the ebpf engine new listeners of a pod that it captures. It does nothing for other pods, or without listeners.
func (e *Engines) Listen(id socket.NetnsID, listeners socket.Given) error {
	for _, engine := range e.all {
		ebpf, ok := engine.(ebpfEngine)
		if !ok || suitable(listeners, How{}) != nil {
			continue
		}
		pod, err := capture.Open(ebpf.dir(id))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer pod.Close()
		if netns, err := capture.Netns(ebpf.dir(id)); err != nil || uint64(netns) != id.Ino {
			return err
		}
		return pod.Listen(slotsOf(listeners))
	}
	return nil
}

// ebpfFound is what the engine has in a namespace, and what it has to know of it.
type ebpfFound struct {
	at        place
	dir       string
	making    *sync.RWMutex // the engine's
	netns     uint64
	pod       *capture.Pod // nil if there is none, or not all of it
	remains   bool         // there is a folder
	attached  capture.Attached
	switched  capture.Switches
	known     []netip.Addr // addresses that the programs take for the pod's
	listening map[capture.Slot]uint64
	kept      []uint32
	virtual   map[string]int // interfaces that the programs take for virtual: indexes by name, 0 for those that aren't there

	paths   paths
	sysctls []Sysctl // present values
	own     []netip.Addr
	links   links
}

// links are a namespace's interfaces other than loopback.
type links struct {
	ethernet []int    // by index
	foreign  []string // names of those that are up and not Ethernet's
	loopback bool     // loopback is up
	names    map[int]string
}

func (e ebpfEngine) look(at place, routing routing) (found, error) {
	f := &ebpfFound{at: at, dir: e.dir(at.id), making: e.making, netns: at.id.Ino, paths: routing.paths()}
	if err := f.read(); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *ebpfFound) read() (err error) {
	// Before the pins: another agent that has changed them has kept before what they were.
	if f.sysctls, err = readSysctls(ebpfSysctls); err != nil {
		return err
	}
	if err := f.readPins(); err != nil {
		return err
	}
	own, err := f.at.ownAddresses()
	if err != nil {
		return err
	}
	for addr := range own {
		if !addr.IsLoopback() {
			f.own = append(f.own, addr)
		}
	}
	slices.SortFunc(f.own, netip.Addr.Compare)
	if f.links, err = f.at.readLinks(); err != nil {
		return err
	}
	return nil
}

func (f *ebpfFound) readPins() error {
	_, err := os.Stat(f.dir)
	f.remains = err == nil
	pod, err := capture.Open(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f.pod = pod
	if f.attached, err = pod.Attached(); err != nil {
		return err
	}
	if f.switched, err = pod.Switched(); err != nil {
		return err
	}
	if f.known, err = pod.Own(); err != nil {
		return err
	}
	slices.SortFunc(f.known, netip.Addr.Compare)
	if f.virtual, err = pod.Virtual(); err != nil {
		return err
	}
	if f.kept, err = pod.Kept(len(ebpfSysctls)); err != nil {
		return err
	}
	f.listening, err = pod.Listeners()
	return err
}

func (p place) readLinks() (links, error) {
	l := links{names: map[int]string{}}
	all, err := p.routes.LinkList()
	if err != nil {
		return l, fmt.Errorf("list the pod's interfaces: %w", err)
	}
	for _, each := range all {
		l.names[each.Attrs().Index] = each.Attrs().Name
		switch attrs := each.Attrs(); {
		case attrs.Index == loopbackIndex:
			l.loopback = attrs.RawFlags&unix.IFF_UP != 0
		case attrs.EncapType == "ether":
			l.ethernet = append(l.ethernet, attrs.Index)
		case attrs.RawFlags&unix.IFF_UP != 0:
			l.foreign = append(l.foreign, attrs.Name)
		}
	}
	slices.Sort(l.ethernet)
	return l, nil
}

func (f *ebpfFound) close() {
	if f.pod != nil {
		f.pod.Close()
	}
}

func (f *ebpfFound) name() Engine { return EBPF }

// runs tells that any program of ours runs in this namespace, which another of that number may have been before.
func (f *ebpfFound) runs() bool {
	return uint64(f.attached.Netns) == f.netns || len(f.attached.Interfaces) > 0
}

func (f *ebpfFound) state() State {
	if !f.runs() && f.paths.none() {
		return Removed
	}
	if !f.complete() {
		return Damaged
	}
	switch f.switched {
	case draining, leaving:
		return Draining
	case switches(f.how()):
		return Capture
	}
	return Damaged
}

func (f *ebpfFound) how() How {
	return How{
		DNS: f.switched&capture.DNS != 0, Ingress: f.switched&capture.In == 0,
		Virtual: strings.Join(slices.Sorted(maps.Keys(f.virtual)), ","),
	}
}

func (f *ebpfFound) detail() (Detail, error) {
	d := Detail{Generation: f.attached.Generation}
	if uint64(f.attached.Netns) == f.netns {
		d.Links = append(d.Links, "lookup")
	}
	for _, index := range f.attached.Interfaces {
		d.Links = append(d.Links, "egress of "+f.links.names[index])
	}
	for _, index := range f.attached.Virtual {
		d.Links = append(d.Links, "virtual of "+f.links.names[index])
	}
	if f.pod == nil {
		return d, nil
	}
	n, err := f.pod.Count()
	to := n.Captured
	d.Counts = Counts{
		Outbound: to[capture.Outbound], Inbound: to[capture.Inbound], Tunnels: to[capture.HBONE],
		DNS:      to[capture.DNSTCP] + to[capture.DNSTCP6] + to[capture.DNSUDP] + to[capture.DNSUDP6],
		Bypassed: n.Passed, Dropped: n.Refused,
	}
	return d, err
}

func switches(how How) capture.Switches {
	on := capture.Out
	if how.DNS {
		on |= capture.DNS
	}
	if !how.Ingress {
		on |= capture.In
	}
	return on
}

func (f *ebpfFound) complete() bool {
	return f.pod != nil && f.attachedAll() && slices.Equal(f.known, f.own) && f.paths.has(f.wantedPaths()) &&
		slices.Equal(f.sysctls, wantedSysctls(f.sysctls))
}

func (f *ebpfFound) attachedAll() bool {
	return uint64(f.attached.Netns) == f.netns && len(f.attached.Stale) == 0 && slices.Equal(f.attached.Interfaces, f.links.ethernet) &&
		slices.Equal(f.attached.Virtual, present(f.virtual))
}

// present are the indexes of interfaces that are there.
func present(interfaces map[string]int) []int {
	indexes := slices.Sorted(maps.Values(interfaces))
	return slices.DeleteFunc(indexes, func(index int) bool { return index == 0 })
}

// resolved are the indexes of interfaces by their names.
func (l links) resolved(names []string) map[string]int {
	interfaces := map[string]int{}
	for _, name := range names {
		interfaces[name] = 0
		for _, index := range l.ethernet {
			if l.names[index] == name {
				interfaces[name] = index
			}
		}
	}
	return interfaces
}

func (f *ebpfFound) suits(j job) error {
	if len(f.links.foreign) > 0 {
		return fmt.Errorf("the pod has interfaces that aren't Ethernet's: %s", strings.Join(f.links.foreign, ", "))
	}
	if j.state != Capture {
		return nil
	}
	if j.how.Virtual != "" && !j.alone {
		return errors.New("who comes from outside to a virtual machine in the pod can only be captured by rules")
	}
	if !f.links.loopback {
		return errors.New("is lo up in the pod?")
	}
	return suitable(j.listeners, j.how)
}

// suitable tells whether a proxy has handed over what is needed.
func suitable(listeners socket.Given, how How) error {
	slots := slotsOf(listeners)
	wanted := []capture.Slot{capture.Outbound, capture.Inbound, capture.HBONE}
	if how.DNS {
		wanted = append(wanted, capture.DNSTCP, capture.DNSUDP)
	}
	for _, slot := range wanted {
		if _, ok := slots[slot]; !ok {
			return fmt.Errorf("the tunnel proxy has handed over no listener for %s: it isn't Tulle's, or older", slot)
		}
	}
	return nil
}

// slotsOf sorts listeners by their ports.
func slotsOf(listeners socket.Given) map[capture.Slot]int {
	slots := map[capture.Slot]int{}
	for port, fd := range listeners {
		slot, ok := map[socket.Port]capture.Slot{
			{Addr: netip.AddrPortFrom(netip.Addr{}, PortOutbound)}: capture.Outbound,
			{Addr: netip.AddrPortFrom(netip.Addr{}, PortInbound)}:  capture.Inbound,
			{Addr: netip.AddrPortFrom(netip.Addr{}, PortHBONE)}:    capture.HBONE,
		}[socket.Port{Addr: netip.AddrPortFrom(netip.Addr{}, port.Addr.Port()), UDP: port.UDP}]
		if port.Addr.Port() == PortDNS {
			slot, ok = nameSlot(port), true
		}
		if ok {
			slots[slot] = fd
		}
	}
	return slots
}

func nameSlot(port socket.Port) capture.Slot {
	switch v4 := port.Addr.Addr().Is4(); {
	case port.UDP && v4:
		return capture.DNSUDP
	case port.UDP:
		return capture.DNSUDP6
	case v4:
		return capture.DNSTCP
	}
	return capture.DNSTCP6
}

func (f *ebpfFound) fits(j job) bool {
	wanted := map[capture.Slot]uint64{}
	for slot, fd := range slotsOf(j.listeners) {
		wanted[slot], _ = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE) // fails only on what is no socket
	}
	return maps.Equal(wanted, f.listening) && f.how() == j.how && maps.Equal(f.links.resolved(j.how.interfaces()), f.virtual)
}

// needed counts the proxy's ends of connections that are turned around: those with an address that isn't the pod's.
func (f *ebpfFound) needed(sockets []diagSocket, own map[netip.Addr]bool) int {
	count := 0
	for _, s := range sockets {
		if s.isTransparent(own) {
			count++
		}
	}
	return count
}

// Values of sysctls are kept one higher than they are: zero says that nothing is kept.
func (f *ebpfFound) remembered() map[string]string {
	values := map[string]string{}
	for i, kept := range f.kept {
		if kept != 0 {
			values[ebpfSysctls[i].name] = strconv.Itoa(int(kept) - 1)
		}
	}
	return values
}

func (f *ebpfFound) keep(j job) error {
	values := make([]uint32, len(ebpfSysctls))
	for _, s := range j.inherited(beforeTulle(f.sysctls, f.remembered(), f.runs())) {
		at := slices.IndexFunc(ebpfSysctls, func(known sysctl) bool { return known.name == s.Name })
		if n, err := strconv.ParseUint(s.Value, 10, 8); err == nil {
			values[at] = uint32(n) + 1
		}
	}
	return f.pod.Keep(values)
}

func (f *ebpfFound) set(desired State, j job) error {
	if desired == Removed {
		return f.remove()
	}
	if f.pod == nil {
		if err := f.create(); err != nil {
			return err
		}
	}
	if err := f.keep(j); err != nil {
		return err
	}
	if desired == Capture {
		if err := f.pod.Listen(slotsOf(j.listeners)); err != nil {
			return err
		}
		f.virtual = f.links.resolved(j.how.interfaces())
	}
	if err := f.apply(); err != nil {
		return err
	}
	switch {
	case desired == Capture:
		return f.pod.Switch(switches(j.how))
	case !j.leaving:
		return f.pod.Switch(draining)
	}
	if err := f.pod.Switch(leaving); err != nil {
		return err
	}
	return f.pod.Vacate(capture.HBONE) // so that tunnels come to whoever listens
}

const (
	draining = capture.Switches(0)
	// leaving is draining while another engine captures. What had passed by that just before it began to is still on its way out,
	// and is turned around. Nothing else comes so far.
	leaving = capture.Out | capture.Leaving
)

// create starts anew. What was there can't be whole.
func (f *ebpfFound) create() (err error) {
	f.making.RLock()
	defer f.making.RUnlock()
	if err = capture.Remove(f.dir); err != nil {
		return err
	}
	f.attached = capture.Attached{}
	f.pod, err = capture.Create(f.dir)
	return err
}

// apply puts in place all that the switches need.
func (f *ebpfFound) apply() error {
	if err := f.pod.SetOwn(f.own); err != nil {
		return err
	}
	if err := f.pod.SetVirtual(f.virtual); err != nil {
		return err
	}
	if err := setSysctls(f.sysctls, wantedSysctls(f.sysctls)); err != nil {
		return err
	}
	if err := f.paths.add(f.at, f.wantedPaths()); err != nil {
		return err
	}
	if !f.attachedAll() {
		if err := f.attach(); err != nil {
			return err
		}
	}
	return nil
}

func (f *ebpfFound) attach() error {
	netns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open the pod's network namespace: %w", err)
	}
	defer netns.Close()
	f.making.RLock()
	defer f.making.RUnlock()
	return f.pod.Attach(int(netns.Fd()), f.links.ethernet, present(f.virtual))
}

func (f *ebpfFound) remove() error {
	own := slices.DeleteFunc(slices.Clone(f.sysctls), func(s Sysctl) bool {
		return slices.ContainsFunc(commonSysctls, func(common sysctl) bool { return common.name == s.Name })
	})
	before := beforeTulle(own, f.remembered(), true)
	if err := capture.Remove(f.dir); err != nil {
		return err
	}
	if err := f.paths.remove(f.at); err != nil {
		return err
	}
	return setSysctls(own, before)
}

func (f *ebpfFound) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "pins %s (all %t) lookup in %d of %d, egress on %v of %v, virtual on %v of %v, stale %v\n", f.dir, f.pod != nil,
		f.attached.Netns, f.netns, f.attached.Interfaces, f.links.ethernet, f.attached.Virtual, f.virtual, f.attached.Stale)
	fmt.Fprintf(&b, "switches %b, own addresses %v of %v, listeners %v\n", f.switched, f.known, f.own, f.listening)
	fmt.Fprintf(&b, "%swanted:\n%ssysctls %v\n", f.paths, f.wantedPaths(), f.sysctls)
	return b.String()
}
