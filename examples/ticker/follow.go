// Follow the ticker from Go: see README.md beside this file.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"

	realizehit "github.com/realizehit/realizehit-go"
)

type price struct {
	Date  string
	Price float64
}

func main() {
	address := flag.String("ws", "ws://127.0.0.1:8080/ws", "address of the WebSocket server")
	flag.Parse()
	symbols := flag.Args()
	if len(symbols) == 0 {
		symbols = []string{"*"}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := follow(ctx, *address, symbols); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

// follow prints the prices of the symbols until the context ends or the server refuses the client.
func follow(ctx context.Context, address string, symbols []string) error {
	client, err := realizehit.Connect(ctx, address, realizehit.Options{
		OnDisconnected: func(lost *realizehit.Error) { log.Print(lost) },
	})
	if err != nil {
		return err
	}
	defer client.Close()
	for _, symbol := range symbols {
		pattern := realizehit.Pattern{"kind": "stock", "symbol": strings.ToUpper(symbol)}
		_, err := client.Subscribe(ctx, pattern, realizehit.SubscribeOptions{
			OnMessage: show,
			OnGap:     func(gap realizehit.Gap) { log.Printf("%s: prices of %.1f s may be missing", symbol, gap.Seconds) },
		})
		if err != nil {
			return err
		}
	}
	log.Print("following ", strings.Join(symbols, ", "))
	select {
	case <-ctx.Done():
		return nil
	case <-client.Done():
		return client.Err()
	}
}

func show(message *realizehit.Message) {
	var now price
	if err := message.Decode(&now); err != nil {
		log.Print(err)
		return
	}
	fmt.Printf("%s  %-5s %8.2f\n", now.Date, message.Pattern()["symbol"], now.Price)
}
