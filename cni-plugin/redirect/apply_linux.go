package redirect

import "slices"

// found is what read saw in a namespace.
type found struct {
	rules   Rules
	ipv6    bool
	sysctls []Sysctl // present values
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
	if f.sysctls, err = readSysctls(); err != nil {
		return f, err
	}
	if !f.empty() {
		f.rules.Sysctls = f.sysctls
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

// before are the values of the sysctls before Tulle. An interrupted run may have lost the tables that remember them; then
// a value that we'd set is taken for ours. An earlier version may not have known all of them.
func (f found) before() []Sysctl {
	kept := remembered(f.rules.Tables)
	before := slices.Clone(f.sysctls)
	for i, now := range before {
		for _, s := range sysctls {
			if s.name != now.Name {
				continue
			}
			if value, ok := kept[s.name]; ok {
				before[i].Value = value
			} else if !f.empty() && now.Value == s.wanted {
				before[i].Value = s.usual
			}
		}
	}
	return before
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
	return f.setSysctls(plan.Sysctls)
}

func (f found) setSysctls(wanted []Sysctl) error {
	for _, s := range wanted {
		if slices.Contains(f.sysctls, s) {
			continue
		}
		if err := writeSysctl(s.Name, s.Value); err != nil {
			return err
		}
	}
	return nil
}

func remove(f found) error {
	if err := f.setSysctls(f.before()); err != nil {
		return err
	}
	if err := writeTables(f.rules.Tables, nil); err != nil {
		return err
	}
	return removeRoutes(f.rules.Routes)
}
