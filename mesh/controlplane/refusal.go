package controlplane

import (
	"context"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// refusal adds to what a control plane says to callers that it doesn't know what they can do about it: for good reasons it
// tells them nothing, and its log everything.
type refusal struct {
	token string // path or literal
}

func (r refusal) explain(err error) error {
	if status.Code(err) != codes.Unauthenticated {
		return err
	}
	where := "given literally"
	if r.token == "" {
		where = "missing"
	} else if _, err := os.Stat(r.token); err == nil {
		where = "in " + r.token
	}
	return status.Errorf(codes.Unauthenticated, "%s: the control plane's log says why; the token, which may have expired or be another mesh's, is %s",
		status.Convert(err).Message(), where)
}

func (r refusal) unary(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker, options ...grpc.CallOption) error {
	return r.explain(call(ctx, method, req, reply, conn, options...))
}

func (r refusal) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(ctx, desc, conn, method, options...)
	if err != nil {
		return nil, r.explain(err)
	}
	return explained{stream, r}, nil
}

// explained is a stream whose end is explained.
type explained struct {
	grpc.ClientStream
	refusal refusal
}

func (s explained) RecvMsg(m any) error { return s.refusal.explain(s.ClientStream.RecvMsg(m)) }
