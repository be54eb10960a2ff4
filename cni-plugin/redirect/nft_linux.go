package redirect

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// nft holds the rules by netlink.
type nft struct{}

func (nft) name() Engine { return NFT }

func (nft) read(at place) (held, error) {
	h := nftHeld{conn: at.rules}
	err := aside(func() (err error) {
		h.tables, err = readTables(at.rules)
		return err
	})
	return h, err
}

// nftHeld is what nftables has in a namespace.
type nftHeld struct {
	nft
	conn   *nftables.Conn
	tables []Table
}

func (h nftHeld) empty() bool { return len(h.tables) == 0 }

func (h nftHeld) is(wish Wish) bool {
	plan := Plan(wish).Tables
	return Rules{Tables: h.inOrderOf(plan)}.String() == Rules{Tables: plan}.String()
}

// how reads the rules that differ.
func (h nftHeld) how() How {
	how := How{Ingress: true}
	var interfaces []string
	for _, table := range h.tables {
		how.DNS = how.DNS || table.Name == rawTable
		for _, chain := range table.Chains {
			if table.Name != natTable || chain.Name != inboundChain {
				continue
			}
			for _, rule := range chain.Rules {
				how.Ingress = how.Ingress && rule.redirects() != PortInbound
				if name := rule.inInterface(); name != "" {
					interfaces = append(interfaces, name)
				}
			}
		}
	}
	how.Virtual = strings.Join(slices.Compact(interfaces), ",")
	return how
}

func (h nftHeld) detail() Detail {
	d := Detail{Generation: generation(h.String()), Counts: none()}
	for _, table := range h.tables {
		d.Links = append(d.Links, "table "+table.Name)
		for _, chain := range table.Chains {
			for _, rule := range chain.Rules {
				d.Counts.rule(rule.Comment, rule.packets())
			}
		}
	}
	return d
}

func (h nftHeld) inOrderOf(plan []Table) []Table {
	tables := slices.Clone(h.tables)
	for i, table := range tables {
		for _, model := range plan {
			if model.Name == table.Name {
				tables[i] = ordered(table, model)
			}
		}
	}
	return tables
}

func (h nftHeld) write(wish Wish) error {
	return aside(func() error { return writeTables(h.conn, h.tables, Plan(wish).Tables) })
}

func (h nftHeld) remembered() map[string]string {
	var comments []string
	for _, table := range h.tables {
		for _, chain := range table.Chains {
			for _, rule := range chain.Rules {
				comments = append(comments, rule.Comment)
			}
		}
	}
	return remembered(comments)
}

func (h nftHeld) String() string { return Rules{Tables: h.tables}.String() }

// readTables returns those of our tables which exist in the connection's namespace, chains and rules in order.
func readTables(conn *nftables.Conn) ([]Table, error) {
	present, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if unavailable(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	var tables []Table
	for _, name := range []string{mangleTable, natTable, rawTable} {
		if slices.ContainsFunc(present, func(t *nftables.Table) bool { return t.Name == name }) {
			tables = append(tables, Table{Name: name})
		}
	}
	if len(tables) == 0 {
		return nil, nil
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	for i := range tables {
		for _, chain := range chains {
			if chain.Table.Name != tables[i].Name {
				continue
			}
			read, err := readChain(conn, chain)
			if err != nil {
				return nil, err
			}
			tables[i].Chains = append(tables[i].Chains, read)
		}
	}
	return tables, nil
}

func readChain(conn *nftables.Conn, chain *nftables.Chain) (Chain, error) {
	read := Chain{Name: chain.Name}
	if chain.Hooknum != nil && chain.Priority != nil {
		read.Hook = &Hook{Type: chain.Type, Hook: *chain.Hooknum, Priority: *chain.Priority}
	}
	rules, err := conn.GetRules(chain.Table, chain)
	if err != nil {
		return Chain{}, fmt.Errorf("list rules of chain %s %s: %w", chain.Table.Name, chain.Name, err)
	}
	for _, rule := range rules {
		read.Rules = append(read.Rules, Rule{Exprs: rule.Exprs, Comment: comment(rule.UserData)})
	}
	return read, nil
}

// writeTables replaces what is found by what is planned, in one transaction. Chains that stay are kept and only their
// rules replaced: a base chain that went away for a moment would take connection tracking with it.
func writeTables(conn *nftables.Conn, found, planned []Table) error {
	kept := map[string]Table{}
	for _, old := range found {
		if slices.ContainsFunc(planned, func(t Table) bool { return sameShape(old, t) }) {
			kept[old.Name] = old
		} else {
			conn.DelTable(conn.AddTable(table(old.Name))) // added first, in case another agent was faster
		}
	}
	for _, want := range planned {
		t := conn.AddTable(table(want.Name))
		conn.FlushTable(t)
		if err := addSets(conn, t, kept[want.Name].Sets, want.Sets); err != nil {
			return err
		}
		addRules(conn, t, want.Chains)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("nftables transaction: %w", explain(err))
	}
	return nil
}

// mostElements is how many elements of a set go into one message, which has 64 KiB for them.
const mostElements = 512

// addSets makes a table's sets what is wanted. No rule may need them at the moment.
func addSets(conn *nftables.Conn, t *nftables.Table, found, wanted []Set) error {
	for _, old := range found {
		if !slices.ContainsFunc(wanted, func(w Set) bool { return w.Name == old.Name }) {
			conn.DelSet(&nftables.Set{Table: t, Name: old.Name})
		}
	}
	for _, want := range wanted {
		set := &nftables.Set{Table: t, Name: want.Name, KeyType: nftables.TypeIPAddr}
		if want.Addrs[0].Is6() {
			set.KeyType = nftables.TypeIP6Addr
		}
		if err := conn.AddSet(set, nil); err != nil {
			return fmt.Errorf("make set %s: %w", want.Name, err)
		}
		conn.FlushSet(set)
		for some := range slices.Chunk(want.Addrs, mostElements) {
			var elements []nftables.SetElement
			for _, addr := range some {
				elements = append(elements, nftables.SetElement{Key: addr.AsSlice()})
			}
			if err := conn.SetAddElements(set, elements); err != nil {
				return fmt.Errorf("fill set %s: %w", want.Name, err)
			}
		}
	}
	return nil
}

func addRules(conn *nftables.Conn, t *nftables.Table, wanted []Chain) {
	chains := make([]*nftables.Chain, len(wanted))
	for i, chain := range wanted {
		chains[i] = conn.AddChain(nftChain(t, chain))
	}
	for i, chain := range wanted {
		for _, rule := range chain.Rules {
			conn.AddRule(&nftables.Rule{Table: t, Chain: chains[i], Exprs: rule.Exprs, UserData: userData(rule.Comment)})
		}
	}
}

func table(name string) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: name}
}

func nftChain(t *nftables.Table, chain Chain) *nftables.Chain {
	c := &nftables.Chain{Table: t, Name: chain.Name}
	if hook := chain.Hook; hook != nil {
		c.Type, c.Hooknum, c.Priority = hook.Type, &hook.Hook, &hook.Priority
	}
	return c
}

// sameShape tells that two tables have the same chains at the same hooks, whatever their rules.
func sameShape(a, b Table) bool {
	return a.Name == b.Name && shape(a) == shape(b)
}

func shape(t Table) string {
	var lines []string
	for _, chain := range t.Chains {
		var b strings.Builder
		writeChain(&b, Chain{Name: chain.Name, Hook: chain.Hook})
		lines = append(lines, b.String())
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// ordered returns the table with its chains in the order of the model, so that listings compare.
func ordered(t, model Table) Table {
	position := func(c Chain) int {
		return slices.IndexFunc(model.Chains, func(m Chain) bool { return m.Name == c.Name })
	}
	chains := slices.Clone(t.Chains)
	slices.SortStableFunc(chains, func(a, b Chain) int { return position(a) - position(b) })
	return Table{Name: t.Name, Chains: chains}
}

func explain(err error) error {
	if errors.Is(err, errNotSupported) {
		return fmt.Errorf("%w (the kernel needs nf_tables with nft_redir, nft_ct, nft_nat and nft_chain_nat)", err)
	}
	return err
}

// commentType is libnftnl's type of a rule's comment in user data: one byte type, one byte length, text with a zero.
const commentType = 0

func userData(comment string) []byte {
	if comment == "" {
		return nil
	}
	return append([]byte{commentType, byte(len(comment) + 1)}, comment+"\x00"...)
}

// comment finds the comment in a rule's user data, which anyone in the pod may have written.
func comment(data []byte) string {
	for len(data) >= 2 && len(data) >= 2+int(data[1]) {
		kind, value := data[0], data[2:2+int(data[1])]
		if kind == commentType {
			return strings.TrimSuffix(string(value), "\x00")
		}
		data = data[2+len(value):]
	}
	return ""
}
