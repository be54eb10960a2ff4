package zds

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/mesh/api/zds"
)

func addRequest(w Workload) ([]byte, error) {
	info := &zds.WorkloadInfo{Name: w.Name, Namespace: w.Namespace, ServiceAccount: w.ServiceAccount}
	return marshal(&zds.WorkloadRequest{Payload: &zds.WorkloadRequest_Add{Add: &zds.AddWorkload{Uid: w.UID, WorkloadInfo: info}}})
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
	if len(packet) > maxPacket {
		return nil, fmt.Errorf("request of %d bytes exceeds the protocol's %d", len(packet), maxPacket)
	}
	return packet, nil
}

func parseHello(packet []byte) error {
	var hello zds.ZdsHello
	if err := proto.Unmarshal(packet, &hello); err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	if hello.GetVersion() != zds.Version_V1 {
		return fmt.Errorf("hello with version %d, want %d", hello.GetVersion(), zds.Version_V1)
	}
	return nil
}

// parseAnswer returns nil for a success, a *refusedError for a refusal.
func parseAnswer(packet []byte) error {
	var response zds.WorkloadResponse
	if err := proto.Unmarshal(packet, &response); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	ack := response.GetAck()
	if ack == nil {
		return fmt.Errorf("answer without acknowledgement")
	}
	if reason := ack.GetError(); reason != "" {
		return &refusedError{Reason: strings.ToValidUTF8(reason, "?")}
	}
	return nil
}
