package intake_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/workload"
	"github.com/tulle-mesh/tulle/mesh/intake"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
	"github.com/tulle-mesh/tulle/mesh/xds"
)

func resource(t *testing.T, uid string, address []byte) xds.Resource {
	t.Helper()
	body, err := proto.Marshal(&workload.Address{Type: &workload.Address_Workload{Workload: &workload.Workload{
		Uid: uid, Name: uid, Namespace: "shop", Addresses: [][]byte{address},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return xds.Resource{Name: uid, Body: body}
}

// What can't be used is named, and doesn't keep the rest out.
func TestWhatIsGoodOfAPushIsTakenAndTheRestIsNamed(t *testing.T) {
	store := state.NewStore()
	push := func(removed []string, resources ...xds.Resource) map[string]error {
		return intake.Apply(store, xds.Push{TypeURL: state.AddressType, Removed: removed, Resources: slices.Values(resources)})
	}
	rejected := push(nil, resource(t, "good", []byte{10, 0, 0, 1}), resource(t, "bad", []byte{10}), xds.Resource{Name: "broken", Body: []byte{0xff}})
	if len(rejected) != 2 || rejected["bad"] == nil || rejected["broken"] == nil {
		t.Errorf("rejected %v, want bad and broken", rejected)
	}
	if table := store.Load(); table.Workload("good") == nil || table.Workload("bad") != nil {
		t.Error("the table hasn't what is good, and nothing else")
	}
	if rejected := push([]string{"good", "unknown"}); len(rejected) > 0 || store.Load().Workload("good") != nil {
		t.Errorf("after its removal: rejected %v, or it is still there", rejected)
	}
	if rejected := intake.Apply(store, xds.Push{TypeURL: "unknown", Removed: []string{"x"}, Resources: slices.Values([]xds.Resource{{Name: "y"}})}); len(rejected) != 2 {
		t.Errorf("of an unknown type only %v is rejected", rejected)
	}
}

func TestWhatHappensToTheStreamIsCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	counts := telemetry.NewXDS(reg)
	for _, kind := range []xds.EventKind{xds.ConnectionError, xds.Error, xds.Error, xds.Reconnect, xds.Complete} {
		intake.Count(counts, xds.Event{Kind: kind})
	}
	intake.Count(counts, xds.Event{Kind: xds.Pushed, TypeURL: state.AddressType, Bytes: 7})
	want := `
# HELP istio_xds_connection_terminations_total Control plane streams that have ended.
# TYPE istio_xds_connection_terminations_total counter
istio_xds_connection_terminations_total{reason="Complete"} 1
istio_xds_connection_terminations_total{reason="ConnectionError"} 1
istio_xds_connection_terminations_total{reason="Error"} 2
istio_xds_connection_terminations_total{reason="Reconnect"} 1
# HELP istio_xds_message_bytes_total Bytes of the resources in messages from the control plane.
# TYPE istio_xds_message_bytes_total counter
istio_xds_message_bytes_total{url="` + state.AddressType + `"} 7
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "istio_xds_connection_terminations_total", "istio_xds_message_bytes_total"); err != nil {
		t.Error(err)
	}
}
