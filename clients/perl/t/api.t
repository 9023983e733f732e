use v5.36;

use FindBin qw($Bin);
use Test::More;
use lib "$Bin/lib";

use Cpanel::JSON::XS qw(decode_json);
use Net::RealizeHit::API;
use Scripted ();

delete @ENV{qw(http_proxy HTTP_PROXY all_proxy ALL_PROXY)};

my $QUEUED = '{"status":"queued","id":"bc86961b","nodes":2}';

# A server that gives each connection's requests these answers, [status, body, headers] or `abort`, and notes each request.
sub answering (@answers) {
    return Scripted->start(
        sub ($peer) {
            while (@answers) {
                my ( $head, $body ) = $peer->request;
                my ($key)  = $head =~ /^Idempotency-Key: (\S+)/mi;
                my ($line) = $head =~ /\A(\S+ \S+)/;
                $peer->note( join q{ }, $peer->number, $line, $key // q{-}, $body );
                my $answer = shift @answers;
                return if $answer eq 'abort';
                $peer->answer( @{$answer} );
            }
        }
    );
}

sub api_of ( $server, %options ) {
    return Net::RealizeHit::API->new( "http://127.0.0.1:${\$server->port}/", timeout => 5, backoff_base => 0.01, %options );
}

sub error_of ($call) {
    return eval { $call->(); 1 } ? undef : $@;
}

subtest 'publish' => sub {
    my $server = answering( [ 200, $QUEUED ], [ 200, '{"id":"bc86961b","nodes":0,"at":"k.17","duplicate":true,"later":1}' ] );
    my $api = api_of($server);
    is_deeply( $api->publish( { kind => 'news' }, { title => "\x{e9}" } ), { id => 'bc86961b', nodes => 2 }, 'result' );
    my ( $number, $method, $target, $key, $body ) = split / /, $server->noted, 5;
    is( "$method $target", 'POST /', 'request' );
    like( $key, qr/\A[0-9a-f]{32}\z/, 'a key of 128 bits' );
    is_deeply( decode_json($body), { pattern => { kind => 'news' }, payload => { title => "\x{e9}" } }, 'body' );
    is_deeply(
        $api->publish_text( { kind => 'news' }, '{"f": 1.0,  "a":1,"a":2}', key => 'order-17' ),
        { id => 'bc86961b', nodes => 0, at => 'k.17', duplicate => 1 },
        'a position and a duplicate'
    );
    is(
        $server->noted,
        '1 POST / order-17 {"pattern":{"kind":"news"},"payload":{"f": 1.0,  "a":1,"a":2}}',
        'the text is passed on unchanged, on the same connection'
    );
};

subtest 'what is tried again' => sub {
    my %away = ( status => 503, body => '{"code":"unavailable","detail":"away"}' );
    my @later = ( 503, $away{body}, 'Retry-After', 0 );
    my $server = answering( [@later], [ 429, '{"code":"rate-limited","detail":"slow"}', 'Retry-After', 0 ], [ 200, $QUEUED ] );
    is( api_of($server)->publish( { kind => 'news' }, 1 )->{nodes}, 2, 'after 503 with Retry-After, and 429' );
    my @keys = map { ( split / /, $server->noted )[3] } 1 .. 3;
    is( $keys[0], $keys[2], 'by the same key' );

    $server = answering( [ 503, $away{body} ], [ 200, $QUEUED ] );
    my $error = error_of( sub { api_of( $server, retry_unclear => 0 )->publish( { kind => 'news' }, 1 ) } );
    isa_ok( $error, 'Net::RealizeHit::Error::Unavailable', '503 without Retry-After' );
    is( $error->status, 503, 'status' );

    $server = answering( 'abort', [ 200, $QUEUED ] );
    isa_ok( error_of( sub { api_of( $server, retry_unclear => 0 )->publish( { kind => 'news' }, 1 ) } ),
        'Net::RealizeHit::Error::PublishUnclear', 'a lost answer' );

    $server = answering( 'abort', [ 503, $away{body} ], [ 200, $QUEUED ] );
    is( api_of($server)->publish( { kind => 'news' }, 1 )->{nodes}, 2, 'both by default' );
    @keys = map { ( split / /, $server->noted )[3] } 1 .. 3;
    is( "@keys[0, 0]", "@keys[1, 2]", 'by the same key' );

    $server = answering( [ 503, $away{body}, 'Retry-After', 86_400 ] );
    $error  = error_of( sub { api_of($server)->publish( { kind => 'news' }, 1 ) } );
    is( $error->retry_after, 86_400, 'a Retry-After beyond the time-out is not waited for' );

    $server = answering( ( [@later] ) x 3 );
    isa_ok( error_of( sub { api_of($server)->publish( { kind => 'news' }, 1 ) } ),
        'Net::RealizeHit::Error::Unavailable', 'three tries' );

    $server = answering( 'abort', [@later], [@later] );
    isa_ok( error_of( sub { api_of($server)->publish( { kind => 'news' }, 1 ) } ),
        'Net::RealizeHit::Error::PublishUnclear', 'the error of three tries, of which the first may have published' );

    $server = answering( 'abort', [ 503, $away{body}, 'Retry-After', 61 ], [ 200, $QUEUED ] );
    isa_ok( error_of( sub { api_of( $server, timeout => 100 )->publish( { kind => 'news' }, 1 ) } ),
        'Net::RealizeHit::Error::PublishUnclear', 'a publication whose key may be forgotten is not sent again' );

    my $nobody = Net::RealizeHit::API->new( 'http://127.0.0.1:1/', backoff_base => 0.01 );
    $error = error_of( sub { $nobody->publish( { kind => 'news' }, 1 ) } );
    isa_ok( $error, 'Net::RealizeHit::Error::Unavailable', 'nobody there' );
    is( $error->status, undef, 'no status' );
};

subtest 'errors' => sub {
    my @cases = (
        [ 400, '{"code":"bad-pattern","detail":"no"}',       'BadPattern',       'bad-pattern' ],
        [ 400, '{"code":"bad-request","detail":"no"}',       'Rejected',         'bad-request' ],
        [ 401, '{"code":"not-authenticated","detail":"no"}', 'NotAuthenticated', 'not-authenticated' ],
        [ 403, '<h1>no</h1>',                                'Forbidden',        q{} ],
        [ 413, '[]',                                         'TooLarge',         q{} ],
        [ 502, '{"detail":{}}',                              'Rejected',         q{} ],
        [ 307, q{},                                          'Rejected',         q{} ],
    );
    my $server = answering( map { [ @{$_}[ 0, 1 ], Location => '/elsewhere' ] } @cases );
    my $api    = api_of( $server, key => 'rhk_secret' );
    for my $case (@cases) {
        my ( $status, $body, $kind, $code ) = @{$case};
        my $error = error_of( sub { $api->publish( { kind => 'news' }, 1 ) } );
        isa_ok( $error, "Net::RealizeHit::Error::$kind", "error of $status $body" );
        is( $error->status, $status, 'status' );
        is( $error->code,   $code,   'code' );
        unlike( "$error", qr/rhk_secret/, 'the key is not in the text' );
    }
};

subtest 'refused before anything is sent' => sub {
    my $api = Net::RealizeHit::API->new('http://127.0.0.1:1/');
    my %codes = (
        'bad-json' => sub { $api->publish_text( { kind => 'news' }, '1,"pattern":{"kind":"sport"}' ) },
        'bad-pattern' => sub { $api->publish( {}, 1 ) },
    );
    for my $code ( sort keys %codes ) {
        is( error_of( $codes{$code} )->code, $code, $code );
    }
    my %calls = (
        'a function'         => sub { $api->publish( { kind => 'news' }, sub { } ) },
        'a long key'         => sub { $api->publish( { kind => 'news' }, 1, key => 'k' x 65 ) },
        'a key of two lines' => sub { $api->publish( { kind => 'news' }, 1, key => "a\r\nX: y" ) },
        'an unknown option'  => sub { $api->publish( { kind => 'news' }, 1, keys => 'k' ) },
        'history of nothing' => sub { $api->history( { kind => 'news' } ) },
        'a wrong address'    => sub { Net::RealizeHit::API->new('ftp://127.0.0.1/') },
        'a wrong time-out'   => sub { Net::RealizeHit::API->new( 'http://127.0.0.1/', timeout => 'soon' ) },
        'a key with a blank' => sub { Net::RealizeHit::API->new( 'http://127.0.0.1/', key => "a\nb" ) },
    );
    for my $name ( sort keys %calls ) {
        is( error_of( $calls{$name} )->code, 'bad-request', $name );
    }
    my $server = answering( [ 200, $QUEUED ] );
    ok( api_of($server)->publish_text( { kind => 'news' }, '"\ud800 \\\\u"' ), 'a lone surrogate escape is JSON' );
};

subtest 'publish_many' => sub {
    my $server = answering(
        [ 200, '{"results":[{"status":"queued","id":"bc86961b","nodes":1},{"status":"error","code":"forbidden","detail":"no"}]}' ],
        [ 200, '{"results":[]}' ],
    );
    my $api      = api_of($server);
    my $outcomes = $api->publish_many(
        [
            { pattern => { kind => 'news' },  payload => 1 },
            { pattern => {},                  payload => 2 },
            { pattern => { kind => 'sport' }, text    => '3.0', key => 'k' },
            { pattern => { kind => 'sport' } },
        ]
    );
    is_deeply( $outcomes->[0], { id => 'bc86961b', nodes => 1 }, 'published' );
    is( $outcomes->[1]{error}->name, 'BadPattern', 'refused by the client' );
    is( $outcomes->[2]{error}->name, 'Forbidden',  'refused by the server' );
    is( $outcomes->[3]{error}->code, 'bad-request', 'a message without a payload' );
    my $body = decode_json( ( split / /, $server->noted, 5 )[4] );
    is( scalar @{ $body->{messages} }, 2,   'two were sent' );
    is( $body->{messages}[1]{key},     'k', 'the key is sent' );
    $outcomes = $api->publish_many( [ { pattern => { kind => 'news' }, payload => 1 } ] );
    is( $outcomes->[0]{error}->name, 'PublishUnclear', 'too few results' );
    is_deeply( $api->publish_many( [] ), [], 'no messages' );
    my $nobody = Net::RealizeHit::API->new( 'http://127.0.0.1:1/', backoff_base => 0.001 );
    $outcomes = $nobody->publish_many( [ map { { pattern => { kind => 'news' }, payload => 'x' x 3_000_000 } } 1 .. 3 ] );
    like( $outcomes->[2]{error}->text, qr/not sent, since an earlier batch failed/, 'the rest is not sent' );
    $outcomes = $nobody->publish_many( [ { pattern => { kind => 'news' }, payload => 'x' x 5_000_000 } ] );
    is( $outcomes->[0]{error}->name, 'TooLarge', 'a message that no batch can hold' );
};

subtest 'history' => sub {
    my $server = answering(
        [ 200, '{"id":"bc86961b","at":"k.1","first":1,"more":false,"messages":[{"payload":{"a":1},"at":"k.1"}]}' ],
        [ 404, q{} ]
    );
    my $api    = api_of($server);
    is_deeply(
        $api->history( { kind => 'news' }, last => 1 ),
        {
            id       => 'bc86961b',
            at       => 'k.1',
            first    => 1,
            more     => 0,
            messages => [ { payload => { a => 1 }, position => 'k.1' } ],
        },
        'messages'
    );
    like( $server->noted, qr{GET /history[?]pat=%7B%22kind%22%3A%22news%22%7D&last=1 }, 'request' );
    is( error_of( sub { $api->history( { kind => 'news' }, since => 'k.1' ) } )->status, 404, 'a server without history' );
};

done_testing();
