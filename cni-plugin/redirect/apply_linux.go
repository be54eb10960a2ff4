package redirect

import (
	"net/netip"
	"slices"
)

// nftEngine captures by rewriting addresses.
type nftEngine struct{}

func (nftEngine) name() Engine { return NFT }

func (nftEngine) look(place) (found, error) { return readNFT() }

// nftFound is what readNFT saw in a namespace.
type nftFound struct {
	rules   Rules
	ipv6    bool
	sysctls []Sysctl // present values
}

func (f nftFound) close() {}

// String lists the redirection in the form of Rules.String.
func (f nftFound) String() string { return f.rules.String() }

// readNFT looks at the calling thread's namespace.
func readNFT() (nftFound, error) {
	var f nftFound
	var err error
	if f.rules.Tables, err = readTables(); err != nil {
		return f, err
	}
	if f.rules.Routes, err = readRoutes(); err != nil {
		return f, err
	}
	if f.sysctls, err = readSysctls(commonSysctls); err != nil {
		return f, err
	}
	if !f.empty() {
		f.rules.Sysctls = f.sysctls
	}
	f.ipv6, err = hasIPv6()
	return f, err
}

func (f nftFound) empty() bool { return len(f.rules.Tables) == 0 && len(f.rules.Routes) == 0 }

// state compares what was found with the plans.
func (f nftFound) state() State {
	if f.empty() {
		return Removed
	}
	for _, state := range []State{Capture, CaptureDNS, Draining} {
		plan := Plan(f.wish(state))
		if f.inOrderOf(plan).String() == plan.String() {
			return state
		}
	}
	return Damaged
}

func (f nftFound) wish(state State) Wish {
	return Wish{State: state, IPv6: f.ipv6, Remembered: beforeTulle(f.sysctls, f.remembered(), !f.empty())}
}

func (f nftFound) remembered() map[string]string { return remembered(f.rules.Tables) }

func (f nftFound) inOrderOf(plan Rules) Rules {
	rules := f.rules
	rules.Tables = slices.Clone(rules.Tables)
	for i, table := range rules.Tables {
		for _, model := range plan.Tables {
			if model.Name == table.Name {
				rules.Tables[i] = ordered(table, model)
			}
		}
	}
	return rules
}

// set changes the namespace. On the way in, the return path exists before a rule needs it, and the old sysctl value is remembered
// before it changes; on the way out, the reverse.
func (f nftFound) set(desired State, job job) error {
	if desired == Removed {
		if err := writeTables(f.rules.Tables, nil); err != nil {
			return err
		}
		return removeRoutes(f.rules.Routes)
	}
	wish := f.wish(desired)
	wish.Remembered = job.inherited(wish.Remembered)
	plan := Plan(wish)
	if err := addRoutes(plan.Routes); err != nil {
		return err
	}
	if err := writeTables(f.rules.Tables, plan.Tables); err != nil {
		return err
	}
	return setSysctls(f.sysctls, plan.Sysctls)
}

// needed counts the connections whose addresses are rewritten, also those that are just beginning or ending.
func (f nftFound) needed(sockets []diagSocket, _ map[netip.Addr]bool) int {
	count := 0
	for _, s := range sockets {
		if s.local.Port() == PortOutbound || s.local.Port() == PortInbound {
			count++
		}
	}
	return count
}

func (nftFound) suits(job) error { return nil }

func (nftFound) fits(job) bool { return true }
