package zds

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/zds"
	"github.com/tulle-mesh/tulle/mesh/handover"
)

// addRequest names a pod, and the listeners whose descriptors go along. It asks for the proxy's own with handOver.
func addRequest(w Workload, listeners []*zds.Listener, handOver bool) ([]byte, error) {
	info := &zds.WorkloadInfo{Name: w.Name, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount}
	add := &zds.AddWorkload{Uid: w.UID, WorkloadInfo: info, Listeners: listeners, HandOver: handOver}
	return marshal(&zds.WorkloadRequest{Payload: &zds.WorkloadRequest_Add{Add: add}})
}

func stopRequest(uid string) ([]byte, error) {
	return marshal(&zds.WorkloadRequest{Payload: &zds.WorkloadRequest_Stop{Stop: &zds.StopWorkload{Uid: uid}}})
}

func delRequest(uid string) ([]byte, error) {
	return marshal(&zds.WorkloadRequest{Payload: &zds.WorkloadRequest_Del{Del: &zds.DelWorkload{Uid: uid}}})
}

func snapshotSent() ([]byte, error) {
	return marshal(&zds.WorkloadRequest{Payload: &zds.WorkloadRequest_SnapshotSent{SnapshotSent: &zds.SnapshotSent{}}})
}

func marshal(request *zds.WorkloadRequest) ([]byte, error) {
	packet, err := proto.Marshal(request)
	if err != nil {
		return nil, err
	}
	if len(packet) > handover.MaxPacket {
		return nil, fmt.Errorf("request of %d bytes exceeds the protocol's %d", len(packet), handover.MaxPacket)
	}
	return packet, nil
}

// abilities are what a proxy can do beyond the protocol that all know.
type abilities struct {
	handOver bool   // it takes listeners, and has its own to give
	stopping bool   // it understands that a pod is about to end
	started  uint64 // when it did, since the machine's start in ns; when it connected, if it doesn't tell
	dns      *bool  // whether it answers pods' DNS questions; nil if it doesn't tell
}

func parseHello(packet []byte) (abilities, error) {
	var hello zds.ZdsHello
	if err := proto.Unmarshal(packet, &hello); err != nil {
		return abilities{}, fmt.Errorf("hello: %w", err)
	}
	if hello.GetVersion() != zds.Version_V1 {
		return abilities{}, fmt.Errorf("hello with version %d, want %d", hello.GetVersion(), zds.Version_V1)
	}
	return abilities{handOver: hello.GetHandOver(), stopping: hello.GetStopping(), started: hello.GetStarted(), dns: hello.Dns}, nil
}

// parseAnswer returns the list of the listeners that come with a success, or a *refusedError for a refusal.
func parseAnswer(packet []byte) ([]*zds.Listener, error) {
	var response zds.WorkloadResponse
	if err := proto.Unmarshal(packet, &response); err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	ack := response.GetAck()
	if ack == nil {
		return nil, fmt.Errorf("answer without acknowledgement")
	}
	if reason := ack.GetError(); reason != "" {
		return nil, &refusedError{Reason: strings.ToValidUTF8(reason, "?")}
	}
	return ack.GetListeners(), nil
}
