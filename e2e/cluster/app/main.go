// Command app is what the pods of tests run.
//
//	app            does nothing, and buries what loses its parent: the first process of every pod
//	app serve      answers HTTP on port 8080 with who it is and who asks; /healthz is 200; /load/start makes load, see load.go
//	app get URL    prints what a URL answers
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	switch {
	case len(os.Args) == 1:
		pause()
	case len(os.Args) == 2 && os.Args[1] == "serve":
		serve()
	case len(os.Args) == 3 && os.Args[1] == "get":
		get(os.Args[2])
	default:
		log.Fatal("app: want nothing, serve, or get URL")
	}
}

func pause() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGTERM)
	for s := range signals {
		if s == syscall.SIGTERM {
			return
		}
		for pid, err := 1, error(nil); pid > 0 && err == nil; {
			pid, err = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		}
	}
}

func serve() {
	host, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		log.Printf("%s %s from %s", r.Method, r.URL, r.RemoteAddr)
		fmt.Fprintf(w, "pod=%s from=%s\n", host, r.RemoteAddr)
	})
	loads()
	server := &http.Server{Addr: ":8080", ReadHeaderTimeout: patience}
	ended := make(chan error)
	go func() { ended <- leave(server) }()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	if err := <-ended; err != nil {
		log.Fatal(err)
	}
}

// leave answers, at the pod's end, who has asked before.
func leave(server *http.Server) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	<-ctx.Done()
	cancel()
	ctx, cancel = context.WithTimeout(context.Background(), patience)
	defer cancel()
	return server.Shutdown(ctx)
}

// maxAnswer bounds what get prints: 1 MiB.
const maxAnswer = 1 << 20

func get(url string) {
	client := &http.Client{Timeout: 5 * time.Second}
	if err := ask(client, url, func(answer string) error { _, err := os.Stdout.WriteString(answer); return err }); err != nil {
		log.Fatal(err)
	}
}
