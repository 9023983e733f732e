use v5.36;

use FindBin qw($Bin);
use Test::More;
use lib "$Bin/lib";

use Net::RealizeHit::Client;
use Scripted    ();
use Time::HiRes qw(sleep);

my $NEWS  = 'bc86961b';
my $SPORT = 'f89c383c';

sub client_of ( $server, %options ) {
    return Net::RealizeHit::Client->new( "ws://127.0.0.1:${\$server->port}/ws", backoff_base => 0.02, %options );
}

sub error_of ($call) {
    return eval { $call->(); 1 } ? undef : $@;
}

subtest 'first message' => sub {
    my $server = Scripted->start(
        sub ($peer) {
            my $head = $peer->upgrade;
            my ($origin) = $head =~ /^(Origin: \S+)/mi;
            my ($token)  = $head =~ /^Authorization: (.*)\r/mi;
            $peer->note( join q{ }, $origin // 'no-origin', $token, $head =~ /\AGET (\S+)/ );
            $peer->note( $peer->confirm($NEWS) );
            $peer->text( "$NEWS?{\"a\":\"\xc3\xa9?\"}", "$NEWS?{broken" );
            my ( $id, $text ) = $peer->action;
            $peer->note($text);
            $peer->text(qq({"id":"$id"}));
            my ( $opcode, $bytes ) = $peer->next_frame;
            $peer->note( join q{ }, $opcode, unpack 'n', $bytes );
            $peer->say_close(1000);
        }
    );
    my $client = client_of( $server, token => 'secret' );
    my $news   = $client->subscribe( { kind => 'news', n => 3 } );
    is( $server->noted, 'no-origin Bearer secret /ws', 'the handshake has the token, and no origin of a web page' );
    is( $server->noted, '{"act":"sub","id":"1","pat":{"kind":"news","n":"3"}}', 'sub' );
    is( $news->state, 'subscribed', 'state' );
    is( $news->id,    $NEWS,        'id' );
    my $message = $news->next(5);
    is( $message->text, "{\"a\":\"\x{e9}?\"}", 'text' );
    is_deeply( $message->payload, { a => "\x{e9}?" }, 'payload' );
    is_deeply( $message->pattern, { kind => 'news', n => '3' }, 'pattern' );
    is( $message->position, undef, 'position' );
    my $broken = $news->next(5);
    ok( error_of( sub { $broken->payload } ), 'a payload that is not JSON dies when it is decoded' );
    is( $news->next(0.01), undef, 'nothing more' );
    ok( !$news->ended, 'and not ended' );
    $news->unsubscribe;
    like( $server->noted, qr/"act":"unsub"/, 'unsub' );
    ok( $news->ended, 'ended' );
    is( $news->next, undef, 'next of what has ended' );
    $client->close;
    is( $server->noted, '8 1000', 'the goodbye' );
    isa_ok( error_of( sub { $client->subscribe( { kind => 'news' } ) } ), 'Net::RealizeHit::Error::Closed', 'after close' );
};

subtest 'functions' => sub {
    my $server = Scripted->start(
        sub ($peer) {
            $peer->upgrade;
            $peer->confirm($NEWS);
            $peer->text( "$NEWS?1", "$NEWS?2", '{"evt":"gap","ids":["' . $NEWS . '"],"seconds":1.5}', "$NEWS?3" );
            $peer->stay;
        }
    );
    my @events;
    my $client = client_of( $server, on_connected => sub ($client) { push @events, 'connected' } );
    my @warnings;
    local $SIG{__WARN__} = sub ($text) { push @warnings, $text };
    $client->subscribe(
        { kind => 'news' },
        on_state   => sub ( $state,   $sub ) { push @events, $state },
        on_gap     => sub ( $gap,     $sub ) { push @events, "gap $gap->{seconds}" },
        on_message => sub ( $message, $sub ) {
            push @events, $message->text;
            die "as the test says\n" if $message->text eq '1';
            $client->stop            if $message->text eq '3';
        },
    );
    $client->run(5);
    is( "@events", 'connected subscribed 1 2 gap 1.5 3', 'in the order of what happened' );
    is( scalar @warnings, 1, 'a function that died is warned of' );
    like( $warnings[0], qr/a callback died: as the test says/, 'by its text' );
};

subtest 'a subscription from within a function' => sub {
    my $server = Scripted->start(
        sub ($peer) {
            $peer->upgrade;
            $peer->confirm($NEWS);
            $peer->text("$NEWS?1");
            $peer->confirm($SPORT);
            $peer->text("$SPORT?2");
            $peer->stay;
        }
    );
    my $client = client_of($server);
    my $seen;
    $client->subscribe(
        { kind => 'news' },
        on_message => sub ( $message, $sub ) {
            $seen = $client->subscribe( { kind => 'sport' } )->next(5)->text;
            $client->stop;
        }
    );
    $client->run(5);
    is( $seen, '2', 'waits and reads' );
};

subtest 'a slow reader' => sub {
    my $server = Scripted->start(
        sub ($peer) {
            $peer->upgrade;
            $peer->confirm($NEWS);
            $peer->confirm($SPORT);
            $peer->text( map {"$NEWS?$_"} 1 .. 20_000 );
            $peer->text("$SPORT?0");
            $peer->stay;
        }
    );
    my $client = client_of( $server, queue => 4 );
    my @gaps;
    my $news  = $client->subscribe( { kind => 'news' }, on_gap => sub ( $gap, $sub ) { push @gaps, $gap->{dropped} } );
    my $sport = $client->subscribe( { kind => 'sport' } );
    is( $news->next(5)->text, '1', 'a reader that keeps up loses nothing' );
    is( $sport->next(5)->text, '0', 'another subscription is not held up' );
    is( $news->dropped, 20_000 - 1 - 4, 'what was dropped is counted' );
    is( join( q{ }, map { $news->next(5)->text } 1 .. 4 ), '19997 19998 19999 20000', 'the latest are kept' );
    $client->process;
    my $told = 0;
    $told += $_ for @gaps;
    is( $told, $news->dropped, 'and all of it is told as gaps' );
};

subtest 'a fast reader loses nothing' => sub {
    my $server = Scripted->start(
        sub ($peer) {
            $peer->upgrade;
            $peer->confirm($NEWS);
            $peer->text( map {"$NEWS?$_"} $_ * 1000 + 1 .. $_ * 1000 + 1000 ) for 0 .. 19;
            $peer->stay;
        }
    );
    my $client = client_of( $server, queue => 4 );
    my $news   = $client->subscribe( { kind => 'news' } );
    my $wrong  = 0;
    for my $number ( 1 .. 20_000 ) {
        my $message = $news->next(5) // last;
        $wrong++ if $message->text ne $number;
    }
    is( $wrong,         0, 'each in its place' );
    is( $news->dropped, 0, 'none dropped' );
};

subtest 'a slow function' => sub {
    my $server = Scripted->start(
        sub ($peer) {
            $peer->upgrade;
            $peer->confirm($NEWS);
            $peer->text( map {"$NEWS?$_"} 1 .. 200 );
            $peer->stay;
        }
    );
    my $client = client_of( $server, queue => 8 );
    $client->{behind_after} = 0.3;    # in place of 10 s
    my @seen;
    my $news = $client->subscribe(
        { kind => 'news' },
        on_message => sub ( $message, $sub ) {
            push @seen, $message->text;
            sleep 0.06;
            $client->stop if $message->text == 200;
        },
    );
    $client->run(20);
    is( $seen[-1], 200, 'gets the last message' );
    cmp_ok( $news->dropped, '>', 100, 'the queue dropped what it could not take' );
    is( @seen + $news->dropped, 200, 'each message was delivered or counted' );
    is_deeply( [ sort { $a <=> $b } @seen ], \@seen, 'in order' );
};

subtest 'lost connections' => sub {
    my $server = Scripted->start(
        sub ($peer) {
            my $number = $peer->number;
            if ( $number == 2 ) { $peer->request; return $peer->answer( 503, '{"code":"unavailable","detail":"away"}' ) }
            $peer->upgrade;
            $peer->note( $peer->confirm($NEWS) );
            $peer->text("$NEWS?$number");
            return $peer->say_close( 4001, 'delay=0' ) if $number == 1;
            return $peer->say_close( 4502, 'no' )      if $number == 4;
            return;
        }
    );
    my @events;
    my $client = client_of(
        $server,
        on_disconnected => sub ( $error, $client ) { push @events, 'disconnected ' . ( $error->status // q{-} ) },
        on_error => sub ( $error, $client ) { push @events, $error->name },
        on_ended => sub ( $error, $client ) { push @events, 'ended' },
    );
    my $gaps = 0;
    my $news = $client->subscribe( { kind => 'news' }, on_gap => sub ( $gap, $sub ) { $gaps++ } );
    is( join( q{ }, map { $news->next(5)->text } 1 .. 3 ), '1 3 4', 'messages of each connection' );
    my $error = error_of( sub { $news->next(5) } );
    isa_ok( $error, 'Net::RealizeHit::Error::Disconnected', 'a close with 4502 ends it' );
    is( $error->code,   'forbidden', 'code' );
    is( $error->status, 4502,        'status' );
    is( $gaps,          2,           'a gap for each return' );
    ok( $client->ended, 'the client has ended' );
    $client->run(1);
    is( "@events", 'disconnected 4001 Unavailable disconnected - disconnected 4502 Disconnected ended', 'events' );
};

subtest 'resumes' => sub {
    my $server = Scripted->start(
        sub ($peer) {
            $peer->upgrade;
            my ( $id, $text ) = $peer->action;
            $peer->note($text);
            my $more = $peer->number == 1 ? q{} : ',"recovered":true';
            $peer->text( qq({"id":"$id","ret":"$NEWS","at":"k3f09a2c.16"$more}), "$NEWS\@o=${\( 16 + $peer->number )}?1" );
            return if $peer->number == 1;
            $peer->stay;
        }
    );
    my $client = client_of($server);
    my ( $gaps, $recovered ) = ( 0, 0 );
    my $news = $client->subscribe(
        { kind => 'news' },
        last         => 5,
        on_gap       => sub ( $gap, $sub ) { $gaps++ },
        on_recovered => sub ($sub) { $recovered++ },
    );
    is( $news->next(5)->position, 'k3f09a2c.17', 'position' );
    like( $server->noted, qr/"last":5/, 'last' );
    is( $news->next(5)->position, 'k3f09a2c.18', 'position after the return' );
    like( $server->noted, qr/"since":"k3f09a2c[.]17"/, 'since' );
    is( "$gaps $recovered", '0 1', 'recovered, no gap' );
};

subtest 'silence' => sub {
    my $server = Scripted->start(
        sub ($peer) {
            $peer->upgrade;
            $peer->confirm($NEWS);
            if ( $peer->number == 1 ) {
                my ($opcode) = $peer->next_frame;
                $peer->note("opcode $opcode");
                $peer->next_frame;    # does not answer
                return;
            }
            $peer->text("$NEWS?2");
            $peer->stay;
        }
    );
    my $client = client_of( $server, heartbeat => 0.4 );
    my $news   = $client->subscribe( { kind => 'news' } );
    is( $news->next(5)->text, '2', 'comes back' );
    is( $server->noted, 'opcode 9', 'after a ping' );
    sleep 1;    # the program does something else for longer than the heartbeat
    my $lost = 0;
    $client->{on_disconnected} = sub ( $error, $client ) { $lost++ };
    $client->run(1);
    is( $lost, 0, 'a program that was busy does not take its own silence for the server\'s' );
};

subtest 'wildcards' => sub {
    my $server = Scripted->start(
        sub ($peer) {
            $peer->upgrade;
            $peer->confirm('bd3769cd');
            $peer->text(
                'bd3769cd@z=1&c=channel:S%C3%A3o|kind:news?1', 'bd3769cd@c=%zz?2', 'bd3769cd?3',
                'bd3769cd@c=channel:CNN|kind:news?4'
            );
            $peer->stay;
        }
    );
    my $client = client_of($server);
    my @errors;
    my $news = $client->subscribe( { kind => 'news', channel => q{*} }, on_error => sub ( $error, $sub ) { push @errors, $error } );
    is_deeply( $news->next(5)->pattern, { kind => 'news', channel => "S\x{e3}o" }, 'the concrete pattern' );
    is( $news->next(5)->text, '4', 'malformed labels are passed over' );
    is( scalar @errors, 1, 'and told once' );
};

subtest 'tokens' => sub {
    my $server = Scripted->start(
        sub ($peer) {
            my ($token) = $peer->upgrade =~ /^Authorization: Bearer (\S+)/mi;
            $peer->note($token);
            $peer->confirm($NEWS);
            return $peer->say_close(4501) if $peer->number == 1;
            $peer->text('{"evt":"expiring","seconds":0.1}');
            my ( $id, $text ) = $peer->action;
            $peer->note($text);
            $peer->text( qq({"id":"$id","ret":true}), "$NEWS?1" );
            $peer->stay;
        }
    );
    my $number = 0;
    my $client = client_of( $server, token => sub () { 'token-' . ++$number } );
    is( $client->subscribe( { kind => 'news' } )->next(5)->text, '1', 'the client lives on' );
    is( $server->noted, 'token-1', 'the first token' );
    is( $server->noted, 'token-2', 'a fresh one after 4501' );
    like( $server->noted, qr/"act":"auth".*"token":"token-3"/, 'a fresh one before its end' );

    $client = client_of( $server, token => sub () { die "no login\n" } );
    my $error = error_of( sub { $client->connect } );
    isa_ok( $error, 'Net::RealizeHit::Error::Token', 'a function that dies at first' );
    like( $error->text, qr/no login/, 'text' );
};

subtest 'errors' => sub {
    my $refusing = Scripted->start(
        sub ($peer) {
            $peer->upgrade;
            my ($id) = $peer->action;
            $peer->text(qq({"id":"$id","err":"not yours","code":"forbidden"}));
            $peer->action;    # is not answered
            $peer->stay;
        }
    );
    my $client = client_of( $refusing, response_timeout => 0.1 );
    my $error  = error_of( sub { $client->subscribe( { kind => 'news' } ) } );
    isa_ok( $error, 'Net::RealizeHit::Error::Forbidden', 'a subscription that is refused' );
    is( $error->text, 'not yours', 'text' );
    isa_ok( error_of( sub { $client->subscribe( { kind => 'news' } ) } ), 'Net::RealizeHit::Error::Timeout', 'no answer' );
    isa_ok( error_of( sub { $client->subscribe( { kind => q{} } ) } ), 'Net::RealizeHit::Error::BadPattern', 'a bad pattern' );
    is( error_of( sub { $client->subscribe( { kind => 'x' }, on_mesage => sub { } ) } )->code, 'bad-request', 'an unknown option' );

    for my $url ( 'http://127.0.0.1/', 'ws://', 'ws://host:port/ws', "ws://host/a\r\nb" ) {
        is( error_of( sub { Net::RealizeHit::Client->new($url) } )->code, 'bad-request', "the address $url" =~ s/\s+/ /gr );
    }
    ok( Net::RealizeHit::Client->new('ws://[::1]:8080/ws'), 'an IPv6 address' );
    is( error_of( sub { client_of( $refusing, qeue => 1 ) } )->code, 'bad-request', 'an unknown option of a client' );
    $error = error_of( sub { Net::RealizeHit::Client->new('ws://127.0.0.1:1/ws')->connect } );
    isa_ok( $error, 'Net::RealizeHit::Error::Unavailable', 'nobody there' );

    my $forbidding = Scripted->start( sub ($peer) { $peer->request; $peer->answer( 401, '{"code":"not-authenticated","detail":"who?"}' ) } );
    $error = error_of( sub { client_of($forbidding)->connect } );
    isa_ok( $error, 'Net::RealizeHit::Error::NotAuthenticated', 'a handshake that is refused' );
    is( $error->text, 'who?', 'text' );
};

subtest 'without waiting' => sub {
    my $server = Scripted->start(
        sub ($peer) {
            $peer->upgrade;
            $peer->confirm($NEWS);
            $peer->text("$NEWS?1");
            my ($id) = $peer->action;
            $peer->text(qq({"id":"$id"}));
            $peer->stay;
        }
    );
    my $client = client_of($server);
    my @events;
    my $news = $client->subscribe(
        { kind => 'news' },
        wait       => 0,
        on_ready   => sub ( $sub,     $error ) { push @events, 'ready ' . $sub->id },
        on_message => sub ( $message, $sub ) {
            push @events, $message->text;
            $sub->unsubscribe( wait => 0, on_done => sub ($error) { push @events, 'done'; $client->close( wait => 0 ) } );
        },
    );
    is( $news->state, 'subscribing', 'returns at once' );
    my $turns = 0;
    while ( !$client->ended && $turns++ < 1000 ) {    # as an event loop does it
        my ( $read, $write ) = ( q{}, q{} );
        if ( my $socket = $client->fh ) {
            vec( $read,  $socket->fileno, 1 ) = 1;
            vec( $write, $socket->fileno, 1 ) = 1 if $client->wants_write;
        }
        select $read, $write, undef, $client->timeout;
        $client->process;
    }
    is( "@events", "ready $NEWS 1 done", 'events' );
    ok( $client->ended, 'closed' );
    cmp_ok( $turns, '<', 100, 'no busy loop' );
};

done_testing();
