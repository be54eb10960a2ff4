package describe_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/mesh/describe"
	"github.com/tulle-mesh/tulle/mesh/state"
	"github.com/tulle-mesh/tulle/mesh/telemetry"
)

var job = &state.Workload{
	ClusterID: "c", Name: "pod", Namespace: "ns", Type: state.CronJob, WorkloadName: "w", CanonicalName: "app", CanonicalRevision: "v2",
	Locality: state.Locality{Region: "r", Zone: "z"},
}

func TestBaggageSaysWhoAWorkloadIs(t *testing.T) {
	want := "k8s.cluster.name=c,k8s.namespace.name=ns,k8s.cronjob.name=w,service.name=app,service.version=v2,cloud.region=r,cloud.availability_zone=z"
	if diff := cmp.Diff(want, describe.Baggage(job).String()); diff != "" {
		t.Error(diff)
	}
}

func TestTelemetrySeesAWorkload(t *testing.T) {
	want := telemetry.Peer{Pod: "pod", Workload: "w", CanonicalName: "app", CanonicalRevision: "v2", Namespace: "ns", Cluster: "c", Region: "r", Zone: "z"}
	if got := describe.Peer(job); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := describe.Peer(nil); got != (telemetry.Peer{}) {
		t.Errorf("an unknown workload is %+v", got)
	}
}
