// Package capture loads and reads the programs that capture one pod's traffic (capture.c heads with what they do), and the maps that
// say how. All of it is pinned in a folder of a bpffs, so that it outlives the process that made it and is found by the next.
//
// A folder's files: slots, settings, own, virtual, before and counters are maps; lookup, egress-N and virtual-N (N: an interface's index)
// are links, which hold the programs. A pod's folder is gone with the node's memory; after the pod's end its links lead nowhere.
package capture

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
)

//go:generate go tool bpf2go -target bpfel -cflags "-O2 -Wall -Werror -mcpu=v3" program capture.c -- -I/usr/include/x86_64-linux-gnu

// Version is part of the folders' names. Whoever changes a map counts it up: an older agent's maps don't fit then. A new map is made
// where it's missing.
const Version = "v1"

// Slot is a place for one of the proxy's listeners.
type Slot uint32

// The slots, by the port in the pod where the proxy listens without us.
const (
	Outbound Slot = iota // 15001
	Inbound              // 15006
	HBONE                // 15008
	DNSTCP               // 15053, IPv4
	DNSTCP6              // 15053, IPv6
	DNSUDP
	DNSUDP6
	slotCount
)

// String names what the slot is for.
func (s Slot) String() string {
	if s < slotCount {
		return [...]string{"outbound", "inbound", "hbone", "dns-tcp", "dns-tcp6", "dns-udp", "dns-udp6"}[s]
	}
	return fmt.Sprintf("slot(%d)", uint32(s))
}

// Switches say what is captured, for new connections only. Without any, what was captured before lives on.
type Switches uint32

// Switches. DNS is in addition to Out. Leaving makes no difference to the programs: it tells whoever reads that capture is coming to its end.
const (
	In Switches = 1 << iota
	Out
	DNS
	Leaving
)

// settings is struct settings of capture.c.
type settings struct{ On, Loopback uint32 }

// loopbackIndex is lo's interface index in every network namespace.
const loopbackIndex = 1

// Limits of the maps.
const (
	maxOwn     = 64
	maxVirtual = 16
	maxKept    = 16
)

// Pod is capture in one network namespace. Close it after use; what it stands for stays.
type Pod struct {
	dir  string
	maps programMaps
}

// committed are the programs and maps as they were compiled. They are read once, which takes longer than making a pod's maps; whoever
// loads them has a copy.
var committed = sync.OnceValues(func() (*ebpf.CollectionSpec, error) {
	spec, err := loadProgram()
	if err != nil {
		return nil, fmt.Errorf("read the committed programs: %w", err)
	}
	return spec, nil
})

// Open opens the pinned maps of a folder. The error wraps fs.ErrNotExist if there is nothing, or not all.
func Open(dir string) (*Pod, error) {
	p := &Pod{dir: dir}
	for name, m := range p.byName() {
		loaded, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		if errors.Is(err, fs.ErrNotExist) && name == virtualMap {
			loaded, err = p.addMap(name)
		}
		if err != nil {
			p.Close()
			return nil, fmt.Errorf("open the pod's map %s: %w", name, err)
		}
		*m = loaded
	}
	return p, nil
}

// virtualMap isn't in the folders of agents before it was thought of.
const virtualMap = "virtual"

func (p *Pod) addMap(name string) (*ebpf.Map, error) {
	spec, err := committed()
	if err != nil {
		return nil, err
	}
	made, err := ebpf.NewMap(spec.Maps[name])
	if err != nil {
		return nil, err
	}
	if err := made.Pin(filepath.Join(p.dir, name)); err != nil {
		made.Close()
		return nil, err
	}
	return made, nil
}

// Create makes the maps, with everything switched off, and pins them in a new folder. What was there before has to be removed first.
func Create(dir string) (*Pod, error) {
	spec, err := committed()
	if err != nil {
		return nil, err
	}
	p := &Pod{dir: dir}
	if err := p.create(spec); err != nil {
		p.Close()
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return p, nil
}

func (p *Pod) create(spec *ebpf.CollectionSpec) error {
	if err := os.MkdirAll(filepath.Dir(p.dir), 0o700); err != nil {
		return fmt.Errorf("folder for pinned objects: %w", err)
	}
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		return fmt.Errorf("folder for the pod's pinned objects: %w", err)
	}
	for name, m := range p.byName() {
		made, err := ebpf.NewMap(spec.Maps[name])
		if err != nil {
			return fmt.Errorf("make the pod's map %s: %w", name, err)
		}
		*m = made
	}
	if err := p.Switch(0); err != nil {
		return err
	}
	for name, m := range p.byName() {
		if err := (*m).Pin(filepath.Join(p.dir, name)); err != nil {
			return fmt.Errorf("pin the pod's map %s (is a bpffs mounted there?): %w", name, err)
		}
	}
	return nil
}

func (p *Pod) byName() map[string]**ebpf.Map {
	return map[string]**ebpf.Map{
		"slots": &p.maps.Slots, "settings": &p.maps.Settings, "own": &p.maps.Own, virtualMap: &p.maps.Virtual, "before": &p.maps.Before, "counters": &p.maps.Counters,
	}
}

// Close lets go of the maps.
func (p *Pod) Close() {
	for _, m := range p.byName() {
		if *m != nil {
			(*m).Close()
		}
	}
}

// Switch says what is captured from now on.
func (p *Pod) Switch(on Switches) error {
	if err := p.maps.Settings.Put(uint32(0), settings{On: uint32(on), Loopback: loopbackIndex}); err != nil {
		return fmt.Errorf("switch capture: %w", err)
	}
	return nil
}

// Switched tells what is captured.
func (p *Pod) Switched() (Switches, error) {
	var s settings
	if err := p.maps.Settings.Lookup(uint32(0), &s); err != nil {
		return 0, fmt.Errorf("read what is captured: %w", err)
	}
	return Switches(s.On), nil
}

// Listen puts listening sockets into their slots, each at once for all new connections, and empties the others. The descriptors stay
// the caller's: a socket leaves its slot when the last process has closed it.
func (p *Pod) Listen(sockets map[Slot]int) error {
	for slot := range slotCount {
		fd, ok := sockets[slot]
		if !ok {
			if err := p.Vacate(slot); err != nil {
				return err
			}
			continue
		}
		if err := p.maps.Slots.Put(uint32(slot), uint64(fd)); err != nil {
			return fmt.Errorf("put a listener into slot %s: %w", slot, err)
		}
	}
	return nil
}

// Vacate empties a slot.
func (p *Pod) Vacate(slot Slot) error {
	err := p.maps.Slots.Delete(uint32(slot))
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) && !errors.Is(err, errInvalid) { // it was empty
		return fmt.Errorf("empty slot %s: %w", slot, err)
	}
	return nil
}

// Listeners tells the cookies (SO_COOKIE) of the sockets in the slots.
func (p *Pod) Listeners() (map[Slot]uint64, error) {
	cookies := map[Slot]uint64{}
	for slot := range slotCount {
		var cookie uint64
		err := p.maps.Slots.Lookup(uint32(slot), &cookie)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read slot %s: %w", slot, err)
		}
		cookies[slot] = cookie
	}
	return cookies, nil
}

// SetOwn says which addresses are the pod's, without those of loopback.
func (p *Pod) SetOwn(addrs []netip.Addr) error {
	if len(addrs) > maxOwn {
		return fmt.Errorf("the pod has %d addresses, more than %d", len(addrs), maxOwn)
	}
	wanted := map[[16]byte]bool{}
	for _, addr := range addrs {
		wanted[addr.As16()] = true
	}
	present, err := p.own()
	if err != nil {
		return err
	}
	for _, key := range present {
		if !wanted[key] {
			if err := p.maps.Own.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("forget an address of the pod: %w", err)
			}
		}
	}
	for key := range wanted {
		if err := p.maps.Own.Put(key, uint8(1)); err != nil {
			return fmt.Errorf("note an address of the pod: %w", err)
		}
	}
	return nil
}

// Own tells which addresses were noted as the pod's.
func (p *Pod) Own() ([]netip.Addr, error) {
	keys, err := p.own()
	var addrs []netip.Addr
	for _, key := range keys {
		addrs = append(addrs, netip.AddrFrom16(key).Unmap())
	}
	return addrs, err
}

func (p *Pod) own() (keys [][16]byte, err error) {
	var key [16]byte
	var value uint8
	all := p.maps.Own.Iterate()
	for all.Next(&key, &value) {
		keys = append(keys, key)
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("read the pod's addresses: %w", err)
	}
	return keys, nil
}

// missing is where the numbers begin that stand for interfaces which aren't there.
const missing = 1 << 31

// SetVirtual says which interfaces have virtual machines or containers behind them: their indexes by name, 0 for those that aren't there.
func (p *Pod) SetVirtual(interfaces map[string]int) error {
	if len(interfaces) > maxVirtual {
		return fmt.Errorf("the pod has %d virtual interfaces, more than %d", len(interfaces), maxVirtual)
	}
	wanted := map[uint32][16]byte{}
	for i, name := range slices.Sorted(maps.Keys(interfaces)) {
		key := uint32(interfaces[name])
		if key == 0 {
			key = missing + uint32(i)
		}
		var value [16]byte
		copy(value[:], name)
		wanted[key] = value
	}
	present, err := p.virtual()
	if err != nil {
		return err
	}
	for key := range present {
		if _, ok := wanted[key]; !ok {
			if err := p.maps.Virtual.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("forget a virtual interface: %w", err)
			}
		}
	}
	for key, value := range wanted {
		if err := p.maps.Virtual.Put(key, value); err != nil {
			return fmt.Errorf("note a virtual interface: %w", err)
		}
	}
	return nil
}

// Virtual tells which interfaces were noted as virtual, as SetVirtual takes them.
func (p *Pod) Virtual() (map[string]int, error) {
	present, err := p.virtual()
	interfaces := map[string]int{}
	for key, value := range present {
		index := int(key)
		if key >= missing {
			index = 0
		}
		interfaces[string(bytes.TrimRight(value[:], "\x00"))] = index
	}
	return interfaces, err
}

func (p *Pod) virtual() (map[uint32][16]byte, error) {
	present := map[uint32][16]byte{}
	var key uint32
	var value [16]byte
	all := p.maps.Virtual.Iterate()
	for all.Next(&key, &value) {
		present[key] = value
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("read the virtual interfaces: %w", err)
	}
	return present, nil
}

// Keep stores numbers for whoever removes the pod, at most 16.
func (p *Pod) Keep(values []uint32) error {
	if len(values) > maxKept {
		return fmt.Errorf("%d values to keep are more than %d", len(values), maxKept)
	}
	for i, value := range values {
		if err := p.maps.Before.Put(uint32(i), value); err != nil {
			return fmt.Errorf("keep what was before: %w", err)
		}
	}
	return nil
}

// Kept returns the first n of the numbers that were kept; zero where nothing was.
func (p *Pod) Kept(n int) ([]uint32, error) {
	values := make([]uint32, min(n, maxKept))
	for i := range values {
		if err := p.maps.Before.Lookup(uint32(i), &values[i]); err != nil {
			return nil, fmt.Errorf("read what was before: %w", err)
		}
	}
	return values, nil
}

// Counters are totals since capture was installed.
type Counters struct {
	Captured [slotCount]uint64 // connections (for UDP: questions), by slot
	Passed   uint64            // connections that went to the app although the pod is captured, such as probes, or because it isn't any more
	Refused  uint64            // connections that came while the slot was empty
	Inward   uint64            // packets that were turned around on their way out
}

// Count reads the counters.
func (p *Pod) Count() (Counters, error) {
	var c Counters
	into := []*uint64{}
	for slot := range c.Captured {
		into = append(into, &c.Captured[slot])
	}
	for i, total := range append(into, &c.Passed, &c.Refused, &c.Inward) {
		var each []uint64
		if err := p.maps.Counters.Lookup(uint32(i), &each); err != nil {
			return Counters{}, fmt.Errorf("read the counters: %w", err)
		}
		for _, n := range each {
			*total += n
		}
	}
	return c, nil
}

// Remove takes capture away: first the programs, at once, then the folder. Whatever is missing is no error.
func Remove(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list the pod's pinned objects: %w", err)
	}
	for _, entry := range entries {
		if err := detach(dir, entry.Name()); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the pod's pinned objects: %w", err)
	}
	return nil
}
