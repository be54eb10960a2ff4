package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// errInvalid is what the kernel says to the removal of a socket that isn't there.
const errInvalid = syscall.EINVAL

const (
	lookupPin     = "lookup"
	egressPrefix  = "egress-"
	virtualPrefix = "virtual-"
)

func egressPin(index int) string  { return egressPrefix + strconv.Itoa(index) }
func virtualPin(index int) string { return virtualPrefix + strconv.Itoa(index) }

// programOf is the program that a pin's link runs; "" for what is no link.
func programOf(pin string) string {
	switch {
	case pin == lookupPin:
		return "tulle_lookup"
	case strings.HasPrefix(pin, egressPrefix):
		return "tulle_egress"
	case strings.HasPrefix(pin, virtualPrefix):
		return "tulle_virtual"
	}
	return ""
}

// Attached is where the pod's programs run.
type Attached struct {
	Netns      uint32 // inode of the namespace where lookup runs; 0: nowhere (any more)
	Interfaces []int  // where egress runs, by index
	Virtual    []int  // where virtual runs
	// Generation tells programs apart: pods with the same one run the same.
	Generation string
	// Stale are pins whose link leads nowhere any more, or whose program isn't this version's or has other maps.
	Stale []string
}

// Attached looks at the links.
func (p *Pod) Attached() (Attached, error) {
	var at Attached
	spec, err := committed()
	if err != nil {
		return at, err
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return at, fmt.Errorf("list the pod's pinned objects: %w", err)
	}
	tags := []string{Version}
	for _, entry := range entries {
		name := entry.Name()
		if programOf(name) == "" {
			continue
		}
		info, err := linkInfo(p.dir, name)
		if err != nil {
			return at, err
		}
		tag, fits := p.fits(info.Program, spec.Programs[programOf(name)])
		if short := tag[:min(8, len(tag))]; !slices.Contains(tags, short) {
			tags = append(tags, short)
		}
		switch place := where(info); {
		case place == 0 || !fits:
			at.Stale = append(at.Stale, name)
		case name == lookupPin:
			at.Netns = place
		case strings.HasPrefix(name, virtualPrefix):
			at.Virtual = append(at.Virtual, int(place))
		default:
			at.Interfaces = append(at.Interfaces, int(place))
		}
	}
	slices.Sort(at.Interfaces)
	slices.Sort(at.Virtual)
	at.Generation = strings.Join(tags, "-")
	return at, nil
}

// Netns tells the inode of the namespace that a folder's programs look after; 0 if there is none, or it is gone.
func Netns(dir string) (uint32, error) {
	info, err := linkInfo(dir, lookupPin)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return where(info), nil
}

// Gone tells that the namespace is gone that a folder's programs looked after. It isn't of a folder that is only being made.
func Gone(dir string) (bool, error) {
	info, err := linkInfo(dir, lookupPin)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return where(info) == 0, nil
}

func linkInfo(dir, name string) (*link.Info, error) {
	l, err := link.LoadPinnedLink(filepath.Join(dir, name), nil)
	if err != nil {
		return nil, fmt.Errorf("open the pod's link %s: %w", name, err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return nil, fmt.Errorf("read the pod's link %s: %w", name, err)
	}
	return info, nil
}

// where is the namespace's inode or the interface's index; 0 when that is gone.
func where(info *link.Info) uint32 {
	if netns := info.NetNs(); netns != nil {
		return netns.NetnsInode
	}
	if tcx := info.TCX(); tcx != nil {
		return tcx.Ifindex
	}
	return 0
}

// fits tells that a running program is the one of this version, with the pod's maps; and its tag.
func (p *Pod) fits(id ebpf.ProgramID, spec *ebpf.ProgramSpec) (tag string, fits bool) {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return "", false
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil {
		return "", false
	}
	used, _ := info.MapIDs()
	settings, err := p.maps.Settings.Info()
	if err != nil {
		return info.Tag, false
	}
	id2, _ := settings.ID()
	return info.Tag, spec.Compatible(info) == nil && slices.Contains(used, id2)
}

// Attach makes the programs run in a namespace and on interfaces of it, some of them virtual, which have to be Ethernet's. It is called on a thread in the
// namespace, of which netns is a descriptor. Programs that run already are replaced without a gap; on other interfaces they end.
// The switches decide what the programs do, so have all else in place before they are on.
func (p *Pod) Attach(netns int, interfaces, virtual []int) error {
	loaded, err := p.loadFor(virtual)
	if err != nil {
		return err
	}
	defer loaded.Close()
	err = p.attach(lookupPin, loaded.TulleLookup, func() (link.Link, error) { return link.AttachNetNs(netns, loaded.TulleLookup) })
	if err != nil {
		return err
	}
	wanted := map[string]bool{lookupPin: true}
	for _, on := range []struct {
		interfaces []int
		pin        func(int) string
		program    *ebpf.Program
		hook       ebpf.AttachType
	}{
		{interfaces, egressPin, loaded.TulleEgress, ebpf.AttachTCXEgress},
		{virtual, virtualPin, loaded.TulleVirtual, ebpf.AttachTCXIngress},
	} {
		for _, index := range on.interfaces {
			wanted[on.pin(index)] = true
			err := p.attach(on.pin(index), on.program, func() (link.Link, error) {
				return link.AttachTCX(link.TCXOptions{Interface: index, Program: on.program, Attach: on.hook, Anchor: link.Head()})
			})
			if err != nil {
				return err
			}
		}
	}
	return p.detachOthers(wanted)
}

// loadFor loads what is needed, since to verify a program takes milliseconds.
func (p *Pod) loadFor(virtual []int) (loaded programPrograms, err error) {
	if len(virtual) > 0 {
		return loaded, p.load(&loaded)
	}
	var usual struct {
		Lookup *ebpf.Program `ebpf:"tulle_lookup"`
		Egress *ebpf.Program `ebpf:"tulle_egress"`
	}
	err = p.load(&usual)
	loaded.TulleLookup, loaded.TulleEgress = usual.Lookup, usual.Egress
	return loaded, err
}

// load verifies the programs of a struct with the pod's maps. The error says what the verifier has said.
func (p *Pod) load(into any) error {
	spec, err := committed()
	if err != nil {
		return err
	}
	replaced := map[string]*ebpf.Map{}
	for name, m := range p.byName() {
		replaced[name] = *m
	}
	return explain(spec.Copy().LoadAndAssign(into, &ebpf.CollectionOptions{MapReplacements: replaced}))
}

// verifierLines is how many of the last lines of the verifier's log an error shows.
const verifierLines = 30

func explain(err error) error {
	if err == nil {
		return nil
	}
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) {
		return fmt.Errorf("the kernel refuses a program: %w\n%s", err, strings.Join(refused.Log[max(0, len(refused.Log)-verifierLines):], "\n"))
	}
	return fmt.Errorf("load the programs (needs CAP_BPF and CAP_NET_ADMIN): %w", err)
}

// attach gives a pinned link another program, or makes and pins a new one.
func (p *Pod) attach(pin string, program *ebpf.Program, make func() (link.Link, error)) error {
	path := filepath.Join(p.dir, pin)
	if old, err := link.LoadPinnedLink(path, nil); err == nil {
		defer old.Close()
		if info, err := old.Info(); err == nil && where(info) != 0 {
			if err := old.Update(program); err != nil {
				return fmt.Errorf("replace the program of the pod's link %s: %w", pin, err)
			}
			return nil
		}
		if err := old.Unpin(); err != nil { // of a namespace or an interface that is gone
			return fmt.Errorf("unpin the pod's link %s: %w", pin, err)
		}
	}
	made, err := make()
	if err != nil {
		return fmt.Errorf("attach the pod's link %s: %w", pin, err)
	}
	defer made.Close() // it lives on by its pin
	if err := made.Pin(path); err != nil {
		return fmt.Errorf("pin the pod's link %s: %w", pin, err)
	}
	return nil
}

func (p *Pod) detachOthers(wanted map[string]bool) error {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return fmt.Errorf("list the pod's pinned objects: %w", err)
	}
	for _, entry := range entries {
		if !wanted[entry.Name()] {
			if err := detach(p.dir, entry.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// detach ends the program of a pinned link, if it is one.
func detach(dir, pin string) error {
	if programOf(pin) == "" {
		return nil
	}
	path := filepath.Join(dir, pin)
	if l, err := link.LoadPinnedLink(path, nil); err == nil {
		// Whoever else holds the link must not keep the program running. A link that leads nowhere can't be detached.
		_ = l.Detach()
		l.Close()
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpin the pod's link %s: %w", pin, err)
	}
	return nil
}
