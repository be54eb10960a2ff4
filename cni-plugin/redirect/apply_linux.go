package redirect

import "slices"

// found is what read saw in a namespace.
type found struct {
	rules Rules
	ipv6  bool
	reuse string // present value of tcp_tw_reuse
}

// read looks at the calling thread's namespace.
func read() (found, error) {
	var f found
	var err error
	if f.rules.Tables, err = readTables(); err != nil {
		return f, err
	}
	if f.rules.Routes, err = readRoutes(); err != nil {
		return f, err
	}
	if f.reuse, err = readSysctl(timeWaitReuse); err != nil {
		return f, err
	}
	if !f.empty() {
		f.rules.TimeWaitReuse = f.reuse
	}
	f.ipv6, err = hasIPv6()
	return f, err
}

func (f found) empty() bool { return len(f.rules.Tables) == 0 && len(f.rules.Routes) == 0 }

// state compares what was found with the plans.
func (f found) state() State {
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

func (f found) wish(state State) Wish {
	return Wish{State: state, IPv6: f.ipv6, Remembered: f.before()}
}

// before is the value of tcp_tw_reuse before Tulle. An interrupted run may have lost the tables that remember it; then
// a 1 is taken for ours.
func (f found) before() string {
	if value, ok := remembered(f.rules.Tables); ok {
		return value
	}
	if !f.empty() && f.reuse == "1" {
		return kernelTimeWaitReuse
	}
	return f.reuse
}

func (f found) inOrderOf(plan Rules) Rules {
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

// apply changes the namespace. On the way in, the return path exists before a rule needs it, and the old sysctl value
// is remembered before it changes; on the way out, the reverse.
func apply(f found, desired State) error {
	plan := Plan(f.wish(desired))
	if desired == Removed {
		return remove(f)
	}
	if err := addRoutes(plan.Routes); err != nil {
		return err
	}
	if err := writeTables(f.rules.Tables, plan.Tables); err != nil {
		return err
	}
	if f.reuse == plan.TimeWaitReuse {
		return nil
	}
	return writeSysctl(timeWaitReuse, plan.TimeWaitReuse)
}

func remove(f found) error {
	if before := f.before(); before != f.reuse {
		if err := writeSysctl(timeWaitReuse, before); err != nil {
			return err
		}
	}
	if err := writeTables(f.rules.Tables, nil); err != nil {
		return err
	}
	return removeRoutes(f.rules.Routes)
}
