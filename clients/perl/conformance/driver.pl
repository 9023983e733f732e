#!/usr/bin/perl
# The driver of the Perl client for the conformance kit: the protocol of clients/conformance/README.md, and nothing more.
use v5.36;

use Cpanel::JSON::XS ();
use FindBin          qw($Bin);
use IO::Handle       ();
use Scalar::Util     qw(blessed);
use lib "$Bin/../lib";

use Net::RealizeHit;
use Net::RealizeHit::Pattern ();

my $json   = Cpanel::JSON::XS->new->utf8->allow_nonref;
my $reader = Cpanel::JSON::XS->new->utf8->allow_nonref->allow_bignum;    # a pattern's numbers keep their digits
my ( %clients, %subs, %apis, @waiting );

sub tell_event ( $on, %fields ) {
    print $json->encode( { on => $on, %fields } ), "\n";
    return;
}

sub error_fields ($error) {
    return { name => 'Error', code => q{}, text => "$error" }
        if !blessed $error || !$error->isa('Net::RealizeHit::Error');
    my %fields = ( name => $error->name, code => $error->code, text => $error->text );
    $fields{status} = 0 + $error->status if defined $error->status;
    return \%fields;
}

sub done ( $command, %fields ) { return tell_event( 'done', n => $command->{n}, %fields ) }

sub failed ( $command, $error ) { return tell_event( 'failed', n => $command->{n}, error => error_fields($error) ) }

sub unsupported ($text) { return Net::RealizeHit::Error->throw( 'Rejected', code => 'unsupported', text => $text ) }

sub payload_event ( $sub, $message, $decode ) {
    my %fields = ( sub => $sub, text => $message->text, pattern => $message->pattern );
    $fields{position} = $message->position if defined $message->position;
    if ( $decode && !eval { $fields{value} = $message->payload; 1 } ) {
        return tell_event( 'error', sub => $sub, error => error_fields($@) );
    }
    return tell_event( 'payload', %fields );
}

my %do = (
    open => sub ($command) {
        my %options = %{ $command->{options} // {} };
        my $name    = $command->{client};
        if ( my $tokens = delete $options{tokens} ) {
            $options{token} = sub () {
                tell_event( 'token_asked', client => $name );
                my $token = @{$tokens} > 1 ? shift @{$tokens} : $tokens->[0];
                return $token // die "the case gives no token\n";
            };
        }
        my $client = $clients{$name} = Net::RealizeHit::Client->new(
            $command->{url}, %options,
            on_connected    => sub ($client) { tell_event( 'connected', client => $name ) },
            on_disconnected => sub ( $error, $client ) {
                my $code = $error->status;
                tell_event( 'disconnected', client => $name, defined $code ? ( code => $code ) : () );
            },
            on_expiring => sub ( $seconds, $client ) { tell_event( 'expiring', client => $name, seconds => $seconds ) },
            on_note  => sub ( $note,  $client ) { tell_event( 'note', client => $name, note => $note ) },
            on_error => sub ( $error, $client ) { tell_event( 'error', client => $name, error => error_fields($error) ) },
            on_ended => sub ( $error, $client ) { tell_event( 'ended', client => $name, error => error_fields($error) ) },
        );
        $client->connect;
        done($command);
    },
    subscribe => sub ($command) {
        my $name = $command->{sub};
        my $read = $command->{read} // 'callback';
        my %how;
        if ( $read ne 'iterate' ) {
            $how{on_message} = sub ( $message, $sub ) {
                payload_event( $name, $message, $command->{decode} );
                die "a callback that fails, as the case says\n" if $read eq 'raise';
            };
        }
        $subs{$name} = $clients{ $command->{client} }->subscribe(
            $command->{pattern}, %how,
            ( map { $_ => $command->{$_} } grep { defined $command->{$_} } qw(since last offsets every) ),
            on_state => sub ( $state, $sub ) { tell_event( 'state', sub => $name, state => $state ) },
            on_gap   => sub ( $gap,   $sub ) { tell_event( 'gap', sub => $name, %{$gap} ) },
            on_recovered => sub ($sub) { tell_event( 'recovered', sub => $name ) },
            on_error => sub ( $error, $sub ) { tell_event( 'error', sub => $name, error => error_fields($error) ) },
            wait     => 0,
            on_ready => sub ( $sub, $error ) { $error ? failed( $command, $error ) : done( $command, id => $sub->id ) },
        );
    },
    next => sub ($command) {
        $command->{count}   //= 1;
        $command->{timeout} //= 5;
        push @waiting, { command => $command, count => 0, until => Net::RealizeHit::Client::now() + $command->{timeout} };
    },
    unsubscribe => sub ($command) {
        $subs{ $command->{sub} }->unsubscribe(
            wait    => 0,
            on_done => sub ($error) { $error ? failed( $command, $error ) : done($command) },
        );
    },
    stats => sub ($command) {
        my $sub = $subs{ $command->{sub} };
        done( $command, state => $sub->state, dropped => $sub->dropped );
    },
    close => sub ($command) {
        $clients{ $command->{client} }->close;
        done($command);
    },
    api => sub ($command) {
        $apis{ $command->{api} } = Net::RealizeHit::API->new( $command->{url}, %{ $command->{options} // {} } );
        done($command);
    },
    publish => sub ($command) {
        my $api = $apis{ $command->{api} };
        my @key = defined $command->{key} ? ( key => $command->{key} ) : ();
        my $result
            = exists $command->{text}
            ? $api->publish_text( $command->{pattern}, $command->{text}, @key )
            : $api->publish( $command->{pattern}, $command->{payload}, @key );
        done( $command, result_fields($result) );
    },
    publish_many => sub ($command) {
        my $outcomes = $apis{ $command->{api} }->publish_many( $command->{messages} );
        done( $command, outcomes => [ map { +{ result_fields($_) } } @{$outcomes} ] );
    },
    history => sub ($command) {
        my %range = map { $_ => $command->{$_} } grep { defined $command->{$_} } qw(since last);
        my $found = $apis{ $command->{api} }->history( $command->{pattern}, %range );
        my @messages = map {
            {
                text     => $json->encode( $_->{payload} ),
                position => $_->{position},
                $_->{pattern} ? ( pattern => $_->{pattern} ) : (),
            }
        } @{ $found->{messages} };
        my %flags = map { $_ => $found->{$_} ? Cpanel::JSON::XS::true : Cpanel::JSON::XS::false }
            grep { exists $found->{$_} } qw(recovered more);
        done( $command, messages => \@messages, at => $found->{at}, first => $found->{first}, %flags );
    },
    pattern => sub ($command) {
        my $text = Net::RealizeHit::Pattern::pattern_text( $command->{pattern} );
        done( $command, text => $text, id => Net::RealizeHit::Pattern::id_of($text) );
    },
    reset => sub ($command) {
        close_all();
        done($command);
    },
);

sub result_fields ($result) {
    return ( error => error_fields( $result->{error} ) ) if $result->{error};
    return ( %{$result}, $result->{duplicate} ? ( duplicate => Cpanel::JSON::XS::true() ) : () );
}

sub close_all () {
    $_->close for values %clients;
    %clients = %subs = %apis = @waiting = ();
    return;
}

sub run ($line) {
    my $command = $reader->decode($line);
    my $call    = $do{ $command->{do} } // sub { unsupported("there is no command $command->{do}") };
    eval { $call->($command); 1 } or failed( $command, $@ );
    return;
}

# Reads for the commands `next`; answers those that have what they want, or whose time is over.
sub serve_waiting () {
    my @left;
    while ( my $each = shift @waiting ) {
        my $command = $each->{command};
        my $sub     = $subs{ $command->{sub} };
        my $over    = eval {
            while ( $each->{count} < $command->{count} and my $message = $sub->poll ) {
                $each->{count}++;
                payload_event( $command->{sub}, $message, $command->{decode} );
            }
            1;
        };
        if ( !$over ) { failed( $command, $@ ) }
        elsif ( $each->{count} == $command->{count} || $sub->ended || Net::RealizeHit::Client::now() >= $each->{until} ) {
            my $ended = $each->{count} < $command->{count} && $sub->ended;
            done( $command, count => $each->{count}, ended => $ended ? Cpanel::JSON::XS::true() : Cpanel::JSON::XS::false() );
        }
        else { push @left, $each }
    }
    @waiting = @left;
    return;
}

# Waits for a line, for a client's socket, and for the time of the next thing to do.
sub wait_for_work () {
    my ( $read, $write, $wait ) = ( q{}, q{}, undef );
    vec( $read, fileno STDIN, 1 ) = 1;
    for my $client ( grep { !$_->ended } values %clients ) {
        my $timeout = $client->timeout;
        $wait = $timeout if defined $timeout && ( !defined $wait || $timeout < $wait );
        my $socket = $client->fh // next;
        vec( $read,  $socket->fileno, 1 ) = 1;
        vec( $write, $socket->fileno, 1 ) = 1 if $client->wants_write;
    }
    for my $each (@waiting) {
        my $left = $each->{until} - Net::RealizeHit::Client::now();
        $left = 0     if $left < 0;
        $wait = $left if !defined $wait || $left < $wait;
    }
    return select( $read, $write, undef, $wait ) > 0 && vec $read, fileno STDIN, 1;
}

STDOUT->autoflush(1);
tell_event( 'hello', protocol => 1, language => 'perl', version => $Net::RealizeHit::VERSION );
my $input = q{};
while (1) {
    my $readable = wait_for_work();
    if ($readable) {
        last if !sysread STDIN, $input, 1 << 20, length $input;
        while ( $input =~ s/\A([^\n]*)\n// ) { run("$1") }
    }
    $_->process for values %clients;
    serve_waiting();
}
close_all();
