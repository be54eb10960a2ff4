package daemon

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/security"
	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/intake"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/xds"
	"github.com/tulle-mesh/tulle/ztunnel/config"
)

func encoded(t *testing.T, m proto.Message) []byte {
	t.Helper()
	body, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func encodedPod(t *testing.T, uid string, edit func(*workload.Workload)) []byte {
	w := &workload.Workload{Uid: uid, Name: uid, Namespace: "shop", Addresses: [][]byte{{10, 0, 0, 1}}}
	if edit != nil {
		edit(w)
	}
	return encoded(t, &workload.Address{Type: &workload.Address_Workload{Workload: w}})
}

func TestGarbageInAPushIsRefusedAndTheRestTaken(t *testing.T) {
	store := state.NewStore()
	rejected := intake.Apply(store, xds.Push{TypeURL: state.AddressType, Removed: []string{"never/known", "", "nobody"}, Resources: slices.Values([]xds.Resource{
		{Name: "good", Body: encodedPod(t, "good", nil)},
		{Name: "noise", Body: []byte("\xff\xff\xff")},
		{Name: "empty"},
		{Name: "misnamed", Body: encodedPod(t, "otherwise", nil)},
		{Name: "address", Body: encodedPod(t, "address", func(w *workload.Workload) { w.Addresses = [][]byte{{1, 2, 3}} })},
		{Name: "protocol", Body: encodedPod(t, "protocol", func(w *workload.Workload) { w.TunnelProtocol = 99 })},
		{Name: "mode", Body: encodedPod(t, "mode", func(w *workload.Workload) { w.NetworkMode = 99 })},
		{Name: "newer", Body: protowire.AppendVarint(protowire.AppendTag(encodedPod(t, "newer", nil), 999, protowire.VarintType), 1)},
		{Name: "twice", Body: encodedPod(t, "twice", func(w *workload.Workload) { w.Node = "old" })},
		{Name: "twice", Body: encodedPod(t, "twice", func(w *workload.Workload) { w.Node = "new" })},
	})})
	if got, want := slices.Sorted(maps.Keys(rejected)), []string{"address", "empty", "misnamed", "mode", "noise", "protocol"}; !slices.Equal(got, want) {
		t.Errorf("refused %q, want %q", got, want)
	}
	table := store.Load()
	if len(table.Workloads()) != 3 || table.Workload("good") == nil || table.Workload("newer") == nil || table.Workload("twice").Node != "new" {
		t.Errorf("taken: %v", table.Workloads())
	}
}

// What can't be understood of a policy may be what it denies.
func TestGarbageInAPolicyDenies(t *testing.T) {
	store := state.NewStore()
	policy := func(name string, edit func(*security.Authorization)) xds.Resource {
		p := &security.Authorization{Namespace: "shop", Name: name, Scope: security.Scope_NAMESPACE, Action: security.Action_DENY}
		edit(p)
		return xds.Resource{Name: "shop/" + name, Body: encoded(t, p)}
	}
	rejected := intake.Apply(store, xds.Push{TypeURL: state.AuthorizationType, Resources: slices.Values([]xds.Resource{
		policy("good", func(*security.Authorization) {}),
		policy("action", func(p *security.Authorization) { p.Action = 99 }),
		policy("scope", func(p *security.Authorization) { p.Scope = 99 }),
		policy("field", func(p *security.Authorization) {
			p.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 999, protowire.VarintType), 1))
		}),
		{Name: "shop/noise", Body: []byte("\xff")},
	})})
	for name, want := range map[string]bool{"good": true, "action": false, "scope": false, "field": false} {
		p := store.Load().Policy("shop", name)
		switch {
		case p == nil:
			t.Errorf("policy %s isn't there", name)
		case (p.Invalid == nil) != want || p.Action != state.Deny || (rejected["shop/"+name] == nil) != want:
			t.Errorf("policy %s = %+v, refused: %v", name, p, rejected["shop/"+name])
		}
	}
	if err := rejected["shop/noise"]; err == nil || !strings.Contains(err.Error(), "decode") {
		t.Errorf("noise was refused with %v", err)
	}
}

// The control plane takes whom a ztunnel speaks for from this, and refuses it if its token says otherwise.
func TestControlPlaneIsToldWhoAsks(t *testing.T) {
	for _, test := range []struct {
		env  []string
		want string
	}{
		{[]string{"INSTANCE_IP=10.0.0.9", "POD_NAME=ztunnel-x", "POD_NAMESPACE=istio-system", "ISTIO_META_ISTIO_VERSION=1.30"}, "ztunnel~10.0.0.9~ztunnel-x.istio-system~istio-system.svc.cluster.local"},
		{[]string{"POD_NAME=ztunnel-x", "POD_NAMESPACE=mesh"}, "ztunnel~1.1.1.1~ztunnel-x.mesh~mesh.svc.cluster.local"},
	} {
		cfg, err := config.FromEnv(append([]string{"NODE_NAME=node1"}, test.env...))
		if err != nil {
			t.Fatal(err)
		}
		node, err := describeNode(cfg)
		if err != nil || node.GetId() != test.want {
			t.Errorf("the node is %q, %v; want %q", node.GetId(), err, test.want)
		}
		meta := node.GetMetadata().AsMap()
		if meta["NODE_NAME"] != "node1" || meta["NAME"] != "ztunnel-x" || meta["NAMESPACE"] != cfg.Self.Namespace || meta["INSTANCE_IPS"] != cfg.Self.IP {
			t.Errorf("metadata %v", meta)
		}
		if version, told := meta["ISTIO_VERSION"]; told != (len(test.env) > 3) || told && version != "1.30" {
			t.Errorf("metadata has the version %v, %t", version, told)
		}
	}
}
