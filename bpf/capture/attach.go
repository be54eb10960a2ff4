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
	lookupPin    = "lookup"
	egressPrefix = "egress-"
)

func egressPin(index int) string { return egressPrefix + strconv.Itoa(index) }

// Attached is where the pod's programs run.
type Attached struct {
	Netns      uint32 // inode of the namespace where lookup runs; 0: nowhere (any more)
	Interfaces []int  // where egress runs, by index
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
		if name != lookupPin && !strings.HasPrefix(name, egressPrefix) {
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
		default:
			at.Interfaces = append(at.Interfaces, int(place))
		}
	}
	slices.Sort(at.Interfaces)
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

func programOf(pin string) string {
	if pin == lookupPin {
		return "tulle_lookup"
	}
	return "tulle_egress"
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

// Attach makes the programs run in a namespace and on interfaces of it, which have to be Ethernet's. It is called on a thread in the
// namespace, of which netns is a descriptor. Programs that run already are replaced without a gap; on other interfaces they end.
// The switches decide what the programs do, so have all else in place before they are on.
func (p *Pod) Attach(netns int, interfaces []int) error {
	var loaded programPrograms
	if err := p.load(&loaded); err != nil {
		return err
	}
	defer loaded.Close()
	err := p.attach(lookupPin, loaded.TulleLookup, func() (link.Link, error) { return link.AttachNetNs(netns, loaded.TulleLookup) })
	if err != nil {
		return err
	}
	wanted := map[string]bool{lookupPin: true}
	for _, index := range interfaces {
		wanted[egressPin(index)] = true
		err := p.attach(egressPin(index), loaded.TulleEgress, func() (link.Link, error) {
			return link.AttachTCX(link.TCXOptions{Interface: index, Program: loaded.TulleEgress, Attach: ebpf.AttachTCXEgress, Anchor: link.Head()})
		})
		if err != nil {
			return err
		}
	}
	return p.detachOthers(wanted)
}

// load verifies the programs with the pod's maps. The error says what the verifier has said.
func (p *Pod) load(into *programPrograms) error {
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
	if pin != lookupPin && !strings.HasPrefix(pin, egressPrefix) {
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
