package addresses

import (
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/istiod-lite/model"
)

// Entry is what counts of a ServiceEntry.
type Entry struct {
	model.Name
	Created time.Time
	// Hosts want an address each: none of an entry with addresses of its own, or that asks for none.
	Hosts []string
	// Fixed are the addresses that the entry has of its own.
	Fixed []netip.Prefix
	// Held are those that it was given, as its status says.
	Held []Assignment
}

// Assignment is an address for a host.
type Assignment struct {
	Host string
	IP   netip.Addr
}

// The ranges are Istio's: of both families there is nothing to be found in the world.
var ranges = [...]netip.Prefix{netip.MustParsePrefix("240.240.0.0/16"), netip.MustParsePrefix("2001:2::/48")}

// ours tells whether an address is of a range to give from.
func ours(ip netip.Addr) bool {
	return slices.ContainsFunc(ranges[:], func(r netip.Prefix) bool { return r.Contains(ip) })
}

// maxOwn is how many addresses out of our ranges the entries of a namespace may have of their own. Those beyond it take none away from
// others, else one namespace could take all.
const maxOwn = 256

// givable tells whether a prefix is one address that could be given. Wider ones take none away: who looks for where an address leads
// finds the entry that has just it before those whose range it is in.
func givable(prefix netip.Prefix) bool { return prefix.IsSingleIP() && ours(prefix.Addr()) }

// family is the index of an address's range.
func family(six bool) int {
	if six {
		return 1
	}
	return 0
}

// allocator decides which address is whose. What an entry's status says stays, unless an older entry has the address, so a
// new leader that has read all statuses decides as the last one did.
type allocator struct {
	entries map[model.Name]Entry
	owners  map[netip.Addr]slot
	given   map[slot]netip.Addr
	own     map[model.Name][]netip.Addr // addresses of entries' own that count
	owned   map[string]int              // how many those are, by namespace
	fixed   map[netip.Addr]int          // the same addresses, by how many have them
	used    [len(ranges)]int            // addresses that are given or fixed, by family
	shares  map[share]int               // addresses that are given, by namespace and family
}

// share is what a namespace has of a family.
type share struct {
	namespace string
	six       bool
}

func (s slot) share() share { return share{s.entry.Namespace, s.six} }

// slot is what one address is for.
type slot struct {
	entry model.Name
	host  string
	six   bool
}

// newAllocator takes in all entries, the oldest first: of several that hold one address it keeps it.
func newAllocator(entries map[model.Name]Entry) *allocator {
	a := &allocator{
		entries: make(map[model.Name]Entry, len(entries)), owners: make(map[netip.Addr]slot),
		given: make(map[slot]netip.Addr), own: make(map[model.Name][]netip.Addr), owned: make(map[string]int), fixed: make(map[netip.Addr]int),
		shares: make(map[share]int),
	}
	for _, entry := range slices.SortedFunc(maps.Values(entries), older) {
		a.put(entry)
	}
	return a
}

func older(a, b Entry) int {
	if order := a.Created.Compare(b.Created); order != 0 {
		return order
	}
	if a.Name.String() < b.Name.String() {
		return -1
	}
	return 1
}

// put takes in an entry, and returns others that lose an address by it.
func (a *allocator) put(entry Entry) []model.Name {
	losers := a.adopt(entry)
	for _, ip := range a.own[entry.Name] {
		if s, owned := a.owners[ip]; owned {
			a.free(s)
			losers = append(losers, s.entry)
		}
	}
	return losers
}

// adopt replaces what is known of an entry.
func (a *allocator) adopt(entry Entry) (losers []model.Name) {
	a.release(entry.Name)
	a.reserve(entry)
	for _, s := range slots(a.entries[entry.Name]) {
		if !slices.Contains(entry.Hosts, s.host) {
			a.free(s)
		}
	}
	a.entries[entry.Name] = entry
	for _, held := range entry.Held {
		s := slot{entry.Name, held.Host, held.IP.Is6()}
		if _, has := a.given[s]; has || !ours(held.IP) || a.taken(held.IP) || !slices.Contains(entry.Hosts, held.Host) {
			continue
		}
		if other, owned := a.owners[held.IP]; owned {
			if other.entry == entry.Name || older(a.entries[other.entry], entry) < 0 {
				continue
			}
			a.free(other)
			losers = append(losers, other.entry)
		}
		a.give(s, held.IP)
	}
	return losers
}

// drop forgets an entry.
func (a *allocator) drop(name model.Name) {
	entry := a.entries[name]
	a.release(name)
	for _, s := range slots(entry) {
		a.free(s)
	}
	delete(a.entries, name)
}

func slots(entry Entry) []slot {
	var found []slot
	for _, host := range entry.Hosts {
		found = append(found, slot{entry.Name, host, false}, slot{entry.Name, host, true})
	}
	return found
}

func (a *allocator) give(s slot, ip netip.Addr) {
	a.given[s], a.owners[ip] = ip, s
	a.used[family(s.six)]++
	a.shares[s.share()]++
}

func (a *allocator) free(s slot) {
	if ip, has := a.given[s]; has {
		delete(a.owners, ip)
		delete(a.given, s)
		a.used[family(s.six)]--
		if a.shares[s.share()]--; a.shares[s.share()] == 0 {
			delete(a.shares, s.share())
		}
	}
}

// reserve notes the addresses that are an entry's own, as far as they could be given and count.
func (a *allocator) reserve(entry Entry) {
	for _, prefix := range entry.Fixed {
		if !givable(prefix) || a.owned[entry.Namespace] == maxOwn {
			continue
		}
		ip := prefix.Addr()
		a.own[entry.Name] = append(a.own[entry.Name], ip)
		a.owned[entry.Namespace]++
		if a.fixed[ip]++; a.fixed[ip] == 1 {
			a.used[family(ip.Is6())]++
		}
	}
}

// release takes back what reserve has noted.
func (a *allocator) release(name model.Name) {
	for _, ip := range a.own[name] {
		if a.owned[name.Namespace]--; a.owned[name.Namespace] == 0 {
			delete(a.owned, name.Namespace)
		}
		if a.fixed[ip]--; a.fixed[ip] == 0 {
			delete(a.fixed, ip)
			a.used[family(ip.Is6())]--
		}
	}
	delete(a.own, name)
}

// taken tells whether some entry has the address of its own.
func (a *allocator) taken(ip netip.Addr) bool { return a.fixed[ip] > 0 }

// want returns the addresses that an entry should have, and gives those that it lacks. With an error it returns those that there are.
func (a *allocator) want(name model.Name) (wanted []Assignment, full error) {
	for _, s := range slots(a.entries[name]) {
		ip, has := a.given[s]
		if !has {
			var err error
			if ip, err = a.pick(s); err != nil {
				full = fmt.Errorf("address for %s: %w", s.host, err)
				continue
			}
			a.give(s, ip)
		}
		wanted = append(wanted, Assignment{s.host, ip})
	}
	return wanted, full
}

const remedy = "give ServiceEntries addresses of their own, or label those that need none with networking.istio.io/enable-autoallocate-ip=false"

var (
	errFull  = errors.New("no address is left: " + remedy)
	errShare = errors.New("the namespace has as many addresses as are left for all others: " + remedy)
)

// pick finds a free address. A namespace gets another only while it has fewer than are left, so that however many it wants, there are
// some for others. The search begins at a place that the slot's names choose, so that an address isn't soon another's when
// its entry is deleted, and clients still remember it.
func (a *allocator) pick(s slot) (netip.Addr, error) {
	hash := fnv.New64a()
	fmt.Fprintf(hash, "%s\x00%s\x00%s", s.entry.Namespace, s.entry.Name, s.host)
	size, at := uint64(1<<16-2), family(s.six) // neither the network's address nor the broadcast's
	if s.six {
		size = 1<<32 - 2
	}
	left := int(size) - a.used[at]
	switch {
	case left <= 0:
		return netip.Addr{}, errFull
	case a.shares[s.share()] >= left:
		return netip.Addr{}, errShare
	}
	begin := hash.Sum64() % size
	for i := range min(size, 1<<16) {
		ip := nth(ranges[at].Addr(), (begin+i)%size+1)
		if _, owned := a.owners[ip]; !owned && !a.taken(ip) {
			return ip, nil
		}
	}
	return netip.Addr{}, errFull
}

// nth adds to an address whose last 32 bits, or 16 of IPv4, are zero.
func nth(base netip.Addr, n uint64) netip.Addr {
	bytes := base.AsSlice()
	for i := range 4 {
		bytes[len(bytes)-1-i] |= byte(n >> (8 * i))
	}
	ip, _ := netip.AddrFromSlice(bytes)
	return ip
}
