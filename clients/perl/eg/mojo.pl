#!/usr/bin/perl
# Follows {"kind": "news"} in the event loop of Mojolicious: perl eg/mojo.pl ws://127.0.0.1:8080/ws
use v5.36;

use Mojo::IOLoop;
use Net::RealizeHit;

# Makes a client part of the event loop. What it waits for changes with each turn.
sub attach ($client) {
    my $reactor = Mojo::IOLoop->singleton->reactor;
    my ( $socket, $timer );
    my $turn = sub {
        my $again = __SUB__;
        $reactor->remove($timer)  if $timer;
        $reactor->remove($socket) if $socket;
        $client->process;
        ( $socket, $timer ) = ( $client->fh, undef );
        return if $client->ended;
        $reactor->io( $socket => $again )->watch( $socket, 1, $client->wants_write ) if $socket;
        my $wait = $client->timeout // return;
        $timer = $reactor->timer( $wait => sub { undef $timer; $again->() } );
    };
    Mojo::IOLoop->next_tick($turn);
    return;
}

my $client = Net::RealizeHit::Client->new( $ARGV[0] // 'ws://127.0.0.1:8080/ws' );
$client->subscribe(
    { kind => 'news' },
    wait       => 0,
    on_ready   => sub ( $news,    $error ) { say $error // 'subscribed' },
    on_message => sub ( $message, $news ) {
        say $message->text;
        $client->close( wait => 0 );
        Mojo::IOLoop->timer( 0.2 => sub { Mojo::IOLoop->stop } );
    },
);
STDOUT->autoflush(1);
attach($client);
Mojo::IOLoop->start;
